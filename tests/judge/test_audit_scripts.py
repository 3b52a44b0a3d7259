"""Scripts show what an audit finds: the call with torch alone, the model with its package."""

from __future__ import annotations

import dataclasses
import json
import pickle
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import black
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.auditing.blame import Blame, Cause
from harness.auditing.gpt_fast import Checkout
from harness.auditing.run import Audit, audit
from harness.auditing.scenario import SCENARIOS
from harness.cli import NOT_OK, USAGE, main
from harness.script.call_script import NoScriptError, call_script
from harness.script.model_script import model_script
from harness.script.package import gpt_fast_package
from harness.verdict import Verdict
from tests.support import ROOT
from tests.support.tiny_decoder import tiny_configuration

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
CHECKOUT = ROOT / "tests" / "support" / "checkout"
# Faults of a mask or a cache, each in a scenario that shows it.
SHOWN = [
    ("no-query-offset", "drafts"),
    ("position-advanced", "two-blocks"),
    ("one-slot-late", "left-padding"),
    ("other-layer", "tokens"),
    ("padding-attended", "right-padding"),
    ("rolled-back-attended", "drafts"),
    ("heads-interleaved", "tokens"),
    ("window-one-wide", "tokens"),
    ("other-sequence", "batch"),
]


def exit_code(text: str, folder: Path) -> int:
    """What a script ends with."""
    assert black.format_str(text, mode=black.Mode()) == text
    assert "harness" not in text
    file = folder / "script.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file))
    return int(ended.value.code or 0)


@pytest.mark.rotates(4)
@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
@pytest.mark.parametrize(("fault", "scenario"), SHOWN, ids=[fault for fault, _ in SHOWN])
def test_a_fault_of_mask_or_cache_is_shown_beside_a_kernel_that_is_right(
    fault: str, scenario: str, attention: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The call does what its mask says, and not what it should; with the right mask it does."""
    found = audit(tiny_configuration(fault, attention=attention), BY_NAME[scenario])
    assert exit_code(call_script(found), tmp_path) == 1
    words = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert words == ["OK", "WRONG", "OK"]


def doubting(scenario: str, attention: str) -> Audit:
    """A sound call whose kernel is blamed."""
    found = audit(tiny_configuration("window-one-wide", attention=attention), BY_NAME[scenario])
    assert found.blame is not None
    return dataclasses.replace(found, blame=dataclasses.replace(found.blame, cause=Cause.KERNEL))


def without_newest(sdpa: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An SDPA that hides the last slot that each query sees, where it sees another."""

    def wrong(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **options: object) -> Tensor:
        last = mask & (mask.long().cumsum(-1) == mask.sum(-1, keepdim=True))
        kept = mask & ~(last & (mask.sum(-1, keepdim=True) > 1))
        return sdpa(query, key, value, kept, **options)

    return wrong


def test_a_kernels_script_follows_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exits with 0 for a kernel that is right, padding or not, and with 1 for a wrong one."""
    for scenario in ("tokens", "left-padding"):
        text = call_script(doubting(scenario, "sdpa"))
        assert exit_code(text, tmp_path) == 0
        with monkeypatch.context() as patch:
            wrong = without_newest(F.scaled_dot_product_attention)
            patch.setattr(F, "scaled_dot_product_attention", wrong)
            assert exit_code(text, tmp_path) == 1
    assert exit_code(call_script(doubting("tokens", "flex_attention")), tmp_path) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_script_allows_what_low_precision_rounds(dtype: torch.dtype, tmp_path: Path) -> None:
    """A kernel that is right is so in each dtype."""
    found = audit(tiny_configuration("one-slot-late", dtype=dtype), BY_NAME["tokens"])
    assert exit_code(call_script(found), tmp_path) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("residual-lost", "before the call"),
        ("kernel-modulo", "no function of torch"),
        ("", "no call"),
    ],
)
def test_what_no_script_of_torch_alone_can_show_is_refused(fault: str, reason: str) -> None:
    """An input that is off, a kernel of the project's own, and no fault at all."""
    with pytest.raises(NoScriptError, match=reason):
        call_script(audit(tiny_configuration(fault), BY_NAME["tokens"]))


def test_a_sink_and_a_softcap_stand_in_the_script(tmp_path: Path) -> None:
    """Golden and FlexAttention have both, and agree."""
    found = doubting("tokens", "flex_attention")
    evidence, blame = found.evidence, found.blame
    assert evidence is not None
    assert isinstance(blame, Blame)
    call = dataclasses.replace(evidence.call, sink=torch.zeros(4), softcap=20.0)
    found = dataclasses.replace(found, evidence=dataclasses.replace(evidence, call=call))
    text = call_script(found)
    assert "tanh" in text
    assert "flex_with_sink" in text
    assert exit_code(text, tmp_path) == 0


@pytest.mark.rotates(2)
@pytest.mark.parametrize("fault", ["no-query-offset", "one-slot-late"])
def test_the_command_writes_both_scripts_and_says_what_they_end_with(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a checkout whose decoding is wrong, and of one that raises."""
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    words = ["audit", "gpt-fast", "--checkout", str(CHECKOUT), "--scenarios", "tokens,last-slot"]
    assert main([*words, "--scripts", str(tmp_path / "new")]) == NOT_OK
    printed = capsys.readouterr().out
    assert fault in printed
    for kind in ("call", "model"):
        assert f"gpt-fast-groups-tokens-{kind}.py: exit code 1, so it shows it alone" in printed
    # The last token lies in a slot that is not there, which raises.
    late = "gpt-fast-groups-last-slot-model.py: exit code 1, so it shows it alone"
    assert (late in printed) == (fault == "one-slot-late")
    for script in (tmp_path / "new").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        assert black.format_str(text, mode=black.Mode()) == text


@pytest.mark.nightly
def test_an_audit_is_the_same_whatever_the_number_of_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows in their order, with what is blamed and where."""
    monkeypatch.setenv("STAND_IN_FAULT", "no-query-offset")
    words = ["audit", "gpt-fast", "--checkout", str(CHECKOUT), "--scenarios", "tokens,chunks"]
    rows: list[list[dict[str, object]]] = []
    for jobs in ("1", "2"):
        file = tmp_path / f"{jobs}.json"
        assert main([*words, "--jobs", jobs, "--json", str(file)]) == NOT_OK
        found = json.loads(file.read_text(encoding="utf-8"))["audits"]
        rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in found])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_an_audit_from_another_process_gives_the_same_script(attention: str) -> None:
    """What cannot travel is not needed for it."""
    found = audit(tiny_configuration("window-one-wide", attention=attention), BY_NAME["tokens"])
    travelled = pickle.loads(pickle.dumps(found.portable()))
    assert call_script(travelled) == call_script(found)


def test_a_sound_checkout_is_ok_and_needs_no_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it refuses, several tokens at once, is UNSUPPORTED."""
    words = ["audit", "gpt-fast", "--checkout", str(CHECKOUT), "--scenarios", "tokens,chunks,batch"]
    assert main([*words, "--scripts", str(tmp_path)]) == 0
    assert "model_forward, which speculative_decode calls" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


@pytest.mark.compiles
@pytest.mark.parametrize("fault", ["", "no-query-offset"])
def test_decoding_that_is_compiled_as_a_whole_is_judged_call_by_call(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call within compiled code is seen; a fault is named there, and a script compiles too."""
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    scenario = BY_NAME["blocks"]  # of a size that vectors of eight lanes do not cut
    configuration = next(Checkout.at(CHECKOUT).configurations(compiled=True))
    found = audit(configuration, scenario)
    if not fault:
        assert found.verdict is Verdict.OK, found.refusal
        # All but the prompt's, one in each of two layers.
        assert (found.calls, found.compiled) == (found.compiled + 2, 2 * len(scenario.steps))
        return
    blame, evidence = found.blame, found.evidence
    assert blame is not None
    assert evidence is not None
    assert (blame.cause, blame.name, found.at, blame.layer) == (Cause.MASK, fault, 1, 0)
    assert evidence.call.again is None
    assert evidence.call.operator == "flex_attention"
    assert exit_code(call_script(found), tmp_path) == 1
    text = model_script(found, gpt_fast_package(found, "here", compiled=True), 0, compiled=True)
    monkeypatch.setattr(sys, "argv", ["script.py", str(CHECKOUT)])
    assert exit_code(text, tmp_path) == 1


def test_a_forward_of_which_calls_are_not_seen_is_not_passed() -> None:
    """A model that calls attention past the audit is UNSUPPORTED, not OK."""
    found = audit(tiny_configuration("unseen"), BY_NAME["tokens"])
    assert found.verdict is Verdict.UNSUPPORTED
    assert found.refusal == "forward 1: 0 of 3 attention calls could be watched"


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the option and the file that is in the way."""
    (tmp_path / "file").touch()
    words = ["audit", "gpt-fast", "--checkout", str(CHECKOUT)]
    assert main([*words, "--scripts", str(tmp_path / "file")]) == USAGE
    assert "--scripts" in capsys.readouterr().err
