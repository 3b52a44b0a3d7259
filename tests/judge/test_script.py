"""Standalone scripts: torch alone, the same bits, the same verdict."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import black
import pytest
import torch

from harness.case import DecodeCase
from harness.inputs import make_inputs
from harness.issue233.answer import REPORT_CASE
from harness.script import text as script_text
from harness.script.case_script import INPUTS_END, case_script, report_script
from harness.script.text import integers
from harness.strategies.paths import sampled_cases
from harness.support.environment import environment
from tests.support.day import nightly
from tests.support.processes import Preloaded

CASES = [
    "S=200,pos=99,H=4,D=16,dtype=bf16",
    "S=200,pos=99/-1/7,H=4,Hkv=2,Q=3,D=16,score=softcap:20+alibi+bias:8+shift:-3,mask=window:50",
    "S=200,pos=99,B=2,H=4,Dv=24,mask=sinks:50:3,tail=leftovers,layout=expanded,probe=needle:4",
    "S=200,pos=99,B=2,H=4,mask=prefix:120,tail=max,layout=wider,dtype=fp16,recipe=kv-blocks",
    "S=200,pos=99/3,mask=document:20,tail=poison,layout=stepped,logits=equal,views=inside",
    "S=200,pos=99,layout=longer,logits=huge,recipe=row,scale=0.3,block=32/64",
    "S=200,pos=99/3,layout=stacked,logits=low,probe=needle:150,tail=inf,mask=window:4",
    "S=40,pos=30/-1/9,D=16,mask=window:4,tail=nan,layout=expanded",
    "S=200,pos=99/3,layout=bshd,logits=x5,probe=uniform",
]


Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def run(preloaded: Preloaded, tmp_path: Path) -> Run:
    """Runs a script where the project cannot be imported, nor what it is tested with."""

    def script(text: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "script.py"
        path.write_text(text)
        return preloaded.run(path, folder=tmp_path, without=["harness", "hypothesis", "pytest"])

    return script


def test_the_reports_script_shows_the_finding_and_exits_1(run: Run) -> None:
    """Right side, wrong side, and why; what could be pasted into the thread."""
    result = run(report_script(REPORT_CASE, "cpu"))
    lines = result.stdout.splitlines()
    assert result.returncode == 1, result.stderr
    assert lines[0].startswith("full cache, as reported")
    assert lines[0].endswith("OK")
    assert lines[1].startswith("sliced cache, as reported")
    assert lines[1].endswith("WRONG")
    assert lines[2].startswith("sliced cache, with the query offset")
    assert lines[2].endswith("OK")
    assert "the sliced side equals v[:, :, :1] bit for bit: True" in lines


def test_the_reports_script_exits_0_once_the_mask_has_the_offset(run: Run) -> None:
    """The remedy makes both sides right."""
    text = report_script(REPORT_CASE, "cpu")
    mended = text.replace("(lambda b, h, q, kv: q >= kv, 100)", "(attends, 100)")
    assert mended != text
    assert run(mended).returncode == 0


@pytest.mark.parametrize("text", CASES)
def test_a_script_draws_the_same_bits(text: str) -> None:
    """Query and caches equal the harness's, NaN for NaN."""
    case = DecodeCase.from_text(text)
    names: dict[str, torch.Tensor] = {}
    exec(case_script(case, "cpu").split(INPUTS_END)[0], names)
    inputs = make_inputs(case)
    for name, wanted in (
        ("query", inputs.query),
        ("key", inputs.key_cache),
        ("value", inputs.value_cache),
    ):
        torch.testing.assert_close(names[name], wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("text", [CASES[1]])
def test_a_script_of_a_sound_case_exits_0(text: str, run: Run) -> None:
    """Its own golden and budget accept what the harness accepts."""
    result = run(case_script(DecodeCase.from_text(text), "cpu"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "OK" in result.stdout


def test_a_script_exits_1_where_its_calls_are_wrong(run: Run) -> None:
    """NaN in the tail comes through flex_attention: a case that shows it."""
    result = run(case_script(DecodeCase.from_text("S=40,pos=9,tail=nan"), "cpu"))
    assert result.returncode == 1
    assert "WRONG" in result.stdout


@pytest.mark.parametrize("drawn", [15, nightly(100)])
def test_scripts_fit_on_a_page_and_black_has_nothing_to_do(
    drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under 80 lines of black's own 88 columns, also where a GPU makes the head longer; a logit
    without a value, which flex_attention does not know, takes some more."""
    gpu = environment("cpu") | dict(device="cuda:0", gpu="NVIDIA H200", cuda="13.0", tf32=False)
    monkeypatch.setattr(script_text, "environment", lambda device: gpu)
    cases = [*map(DecodeCase.from_text, CASES), *sampled_cases(drawn, 0)]
    scripts = [(case_script(case, "cuda:0"), 95 if case.has_column else 80) for case in cases]
    for text, limit in [*scripts, (report_script(REPORT_CASE, "cpu"), 80)]:
        assert black.format_str(text, mode=black.Mode()) == text
        lines = text.splitlines()
        assert len(lines) < limit, text
        assert max(len(line) for line in lines if not line.startswith("Case: ")) <= 88
        assert "harness" not in text


def test_long_values_are_written_as_black_writes_them() -> None:
    """A ragged batch of forty, and an equal one; the same numbers."""
    for positions in ([*range(100, 140)], [7] * 40):
        lines = [*integers("pos", tuple(positions))]
        assert black.format_str("\n".join(lines) + "\n", mode=black.Mode()).splitlines() == lines
        names: dict[str, torch.Tensor] = {"torch": torch}  # type: ignore[dict-item]
        exec("\n".join(lines), names)
        assert names["pos"].tolist() == positions
