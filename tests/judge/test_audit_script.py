"""A script is audited as it is: which slots each call attends, and where calls differ."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from harness.cli import INCOMPLETE, INTERRUPTED, NOT_OK, OK, USAGE, main
from tests.support import ROOT
from tests.support.processes import Preloaded

SNIPPET = ROOT / "examples" / "sliced_cache.py"
HEAD = """
import sys

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
query, key, value = torch.randn(3, 1, 2, 6, 16)
sdpa = F.scaled_dot_product_attention
"""


def audited(
    text: str, folder: Path, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, dict[str, Any]]:
    """Exit code, output and JSON of an audit of a script of this text."""
    script, file = folder / "script.py", folder / "a.json"
    script.write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
    code = main(["audit", "--json", str(file), str(script), *arguments])
    read = json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    return code, "".join(capfd.readouterr()), read


def test_the_reports_two_calls_are_told_apart_by_what_they_attend(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both compute what their masks say; the sliced one attends a single slot of the filled."""
    file = tmp_path / "a.json"
    assert main(["audit", "--json", str(file), str(SNIPPET)]) == INCOMPLETE
    printed = capfd.readouterr().out
    first, second, both = printed[printed.index("\ncall 1 ") :].strip().split("\n\n")
    assert "attends slots 0 to 99\n" in first
    assert "256 slots, 100 of them filled" in first
    assert "attends slot 0 alone, of 100 that are filled" in second
    assert all("computes that rightly" in call for call in (first, second))
    assert both.startswith("calls 1 and 2, the same keys and values and the same query")
    assert "they differ by 99 slots" in both
    assert "call 1 alone attends slots 1 to 99" in both
    assert "no-query-offset: call 2" in both
    read = json.loads(file.read_text(encoding="utf-8"))
    assert [call["attends"] for call in read["attention_calls"]] == [[["0 to 99"]], [["0"]]]
    [found] = read["differences"]
    assert (found["calls"], found["slots"], found["first_alone"]) == ([1, 2], 99, "1 to 99")
    assert found["relative_l2"] > 1
    # What the script prints goes through, before what is said of it.
    assert printed.startswith("off by ")


def test_rows_are_matched_by_their_queries(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last row of a prompt is the one row of a decode step, in grouped heads copied or not."""
    code, printed, read = audited(
        """
        full = sdpa(query, key, value, is_causal=True)
        buffer = torch.zeros(2, 1, 2, 12, 16)
        buffer[0, :, :, :6], buffer[1, :, :, :6] = key, value
        mask = torch.arange(12) < 6
        step = sdpa(query[:, :, -1:], *buffer, mask.view(1, 1, 1, -1))
        late = sdpa(query[:, :, 3:5], key, value, is_causal=True)
        """,
        tmp_path,
        capfd,
    )
    assert code == INCOMPLETE
    assert "rows 0 to 5: slots 0 to r" in printed
    [found] = read["differences"]
    assert (found["calls"], found["rows_that_differ"], found["rows_compared"]) == ([1, 3], 2, 2)
    assert (found["rows"][0]["row"], found["rows"][1]["row"]) == (3, 0)
    assert found["first_alone"] == "1 to 3"


def test_grouped_heads_and_their_copies_are_the_same_keys(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whether heads are repeated by the script or within the call, and in whichever dtype."""
    code, _, read = audited(
        """
        many = torch.randn(1, 4, 1, 16).bfloat16()
        key, value = key.bfloat16(), value.bfloat16()
        sdpa(many, key, value, torch.arange(6).view(1, 6) < 5, enable_gqa=True)
        key, value = (x.repeat_interleave(2, 1).float() for x in (key, value))
        sdpa(many.float(), key, value)
        """,
        tmp_path,
        capfd,
    )
    [found] = read["differences"]
    assert (code, found["slots"], found["second_alone"]) == (INCOMPLETE, 1, "5")


def test_calls_that_attend_alike_but_are_told_another_scale_differ(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By more than rounding; with the same scale they do not."""
    text = """
        sdpa(query, key, value)
        sdpa(query, key, value, scale={})
        """
    assert audited(text.format(0.25), tmp_path, capfd)[0] == OK
    code, printed, _ = audited(text.format(0.5), tmp_path, capfd)
    assert code == INCOMPLETE
    assert "they attend the same slots" in printed
    assert "scales are 0.25 and 0.5" in printed


def test_what_is_hidden_by_a_change_of_scores_is_not_attended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A bias of -1e9 or -1e30 and a score_mod that gives -inf hide slots as a mask does."""
    code, _, read = audited(
        """
        from torch.nn.attention.flex_attention import flex_attention
        near = torch.arange(6).view(-1, 1) - torch.arange(6)
        hidden = (near < 0) | (near > 2)
        sdpa(query, key, value, torch.zeros(6, 6).masked_fill(hidden, -1e9))
        def window(score, b, h, q, kv):
            return torch.where((q >= kv) & (q - kv <= 2), score, -float("inf"))
        flex_attention(query, key, value, score_mod=window)
        sdpa(query, key, value, torch.zeros(6, 6).masked_fill(hidden, -1e30))
        rows = torch.ones(2, 6, 6).tril().bool()
        rows[1, 2] = False
        sdpa(query, key, value, rows)
        """,
        tmp_path,
        capfd,
    )
    assert code == INCOMPLETE  # the last one attends otherwise
    window = [["0", "0 to 1", "0 to 2", "1 to 3", "2 to 4", "3 to 5"]]
    assert [call["attends"] for call in read["attention_calls"]][:3] == [window] * 3


def test_a_call_that_is_wrong_beside_its_own_mask_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A function marked as attention that leaves a slot out."""
    code, printed, read = audited(
        """
        from harness.auditing.observe import like_sdpa

        @like_sdpa
        def mine(query, key, value):
            return sdpa(query, key, value, torch.arange(6).view(1, 6) > 0)

        sdpa(query, key, value)
        mine(query, key, value)
        """,
        tmp_path,
        capfd,
    )
    assert code == NOT_OK
    assert printed.lstrip().startswith("WRONG")
    assert "it does not attend slots 0, which its mask shows" in " ".join(printed.split())
    assert [call["verdict"] for call in read["attention_calls"]] == ["OK", "WRONG"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("sdpa(query[0], key[0], value[0], torch.ones(2, 6, 6).tril().bool())", OK, ""),
        ("sdpa(query[0, 0], key[0, 0], value[0, 0])", OK, ""),
        ("sdpa(query[None], key[None], value[None])", OK, ""),
        ("sdpa(query.expand(3, -1, -1, -1), key, value)", OK, ""),
        ("sdpa(query, key, value, dropout_p=0.5)", USAGE, "1 call of scaled_dot"),
        ("sdpa(*(x.double() for x in (query, key, value)))", USAGE, "'float64' is not"),
        ("sdpa(query, key, value); sdpa(query, key, value, dropout_p=0.5)", INCOMPLETE, "dropout"),
        ("(query @ key.mT).softmax(-1) @ value", USAGE, "written by hand"),
        ("nn.MultiheadAttention(32, 2)(*torch.randn(3, 6, 1, 32))", USAGE, "need_weights=False"),
        (
            "nn.MultiheadAttention(32, 2)(*torch.randn(3, 6, 1, 32), need_weights=False)",
            OK,
            "",
        ),
        (
            "with torch.no_grad():\n"
            "    nn.TransformerEncoderLayer(32, 2, batch_first=True).eval()(torch.randn(1, 6, 32))",
            USAGE,
            "set_fastpath_enabled(False)",
        ),
        ("from threading import Thread\nt = Thread(target=sdpa, args=(query, key, value))\n"
         "t.start(); t.join()", OK, ""),
        ("with torch.inference_mode(): sdpa(query, key, value)", OK, ""),
        ("sdpa(*(x.requires_grad_() for x in (query, key, value))).sum().backward()", OK, ""),
        ("torch.vmap(sdpa)(query[None], key[None], value[None])", USAGE, "1 call of scaled_dot"),
        ("sdpa(query, key, value, torch.zeros(6, 6).bool())", OK, "attends nothing"),
        ("print(sys.argv[1:]); sdpa(query, key, value)", OK, "['--json', 'x']"),
        ("sdpa(query, key, value); sys.exit(3)", OK, "ended with sys.exit(3)"),
        ("sys.exit('bad')", USAGE, "bad\n"),
        ("sdpa(query, key, value); sdpa(query, key, 1)", INCOMPLETE, "an uncaught "),
        ("sdpa(query, key, value); raise KeyboardInterrupt", INTERRUPTED, "was interrupted"),
        ("1 / 0", USAGE, "ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_whatever_a_script_does_is_judged_or_said(
    text: str, code: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 0 for what was judged and right, 3 for a part of it, 2 for nothing."""
    ended, printed, read = audited(text, tmp_path, capfd, "--json", "x")
    assert said in printed or said in " ".join(printed.split())
    assert (ended, read["exit_code"]) == (code, code), printed
    assert (read["judged"] == 0) == (code == USAGE)
    assert ("not judged: " in printed) or code == OK


def test_a_traceback_has_no_frames_but_the_scripts(tmp_path: Path, preloaded: Preloaded) -> None:
    """It goes to standard error as from Python itself, and what was judged is printed."""
    script = tmp_path / "script.py"
    script.write_text(f"{HEAD}\nsdpa(query, key, value)\nraise KeyError('no such slot')\n")
    ran = preloaded.run("-m", "harness", "audit", script, folder=tmp_path, path=[ROOT])
    assert ran.returncode == INCOMPLETE
    assert ran.stderr.count('File "') == 1
    assert f'File "{script}", line 13, in <module>' in ran.stderr
    assert ran.stderr.endswith("KeyError: 'no such slot'\n")
    assert "OK of what was judged: 1 of 1 attention calls" in ran.stdout


@pytest.mark.compiles
def test_a_compiled_call_is_judged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """That of ``torch.compile(flex_attention)``, as most scripts call it."""
    code, printed, read = audited(
        """
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        query, key, value = torch.randn(3, 1, 1, 32, 16)
        mask = create_block_mask(lambda b, h, q, kv: q >= kv, None, None, 32, 32, device="cpu")
        with torch.no_grad():
            torch.compile(flex_attention)(query, key, value, block_mask=mask)
        """,
        tmp_path,
        capfd,
    )
    assert code == OK, printed
    assert "call 1  flex_attention, compiled" in printed
    assert read["attention_calls"][0]["attends"][0][-1] == "0 to 31"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("check snippet.py", "audit snippet.py"),
        ("check S=2,pos=1", "repro 'S=2,pos=1'"),
        ("check gpt-fast", "audit gpt-fast --checkout DIR"),
        ("repro snippet.py", "audit snippet.py"),
        ("repro mine.py:decode", "check mine.py:decode"),
        ("repro my.package:Cache.decode", "check my.package:Cache.decode"),
        ("repro vllm", "check vllm:NAME"),
        ("repro transformers", "audit transformers"),
        ("audit mine.py:decode", "check mine.py:decode"),
        ("audit S=2,pos=1,D=16", "repro 'S=2,pos=1,D=16'"),
        ("audit gpt-fast-233", "repro gpt-fast-233"),
        ("audit nowhere.py", "nowhere.py: there is no such file"),
        ("audit --jobs 2 snippet.py", "--jobs: is for transformers and gpt-fast"),
        ("audit transformers llama", "check llama:NAME"),
    ],
)
def test_a_command_given_what_another_takes_names_it(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with exit code 2 and before anything is loaded."""
    assert main(words.split()) == USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"harness {words.split(maxsplit=1)[0]}: error: ")
    assert said in line


def test_help_says_how_to_audit_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    """And a project's help is found after its name too."""
    for words in (["audit", "--help"], ["audit", "transformers", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert "SCRIPT.py [ARGS]" in capsys.readouterr().out
