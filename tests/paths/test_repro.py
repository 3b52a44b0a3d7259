"""The finding on gpt-fast#233, as a test."""

import itertools
import json
import signal
import subprocess
import sys

import pytest
import torch

from harness import cli
from harness.case import DecodeCase
from harness.inputs import make_inputs
from harness.issue233.answer import REPORT_CASE, Answer, answer_report
from harness.issue233.claims import ignores_nan_from, wasted
from harness.issue233.text import lines, render, to_json
from harness.paths import PATHS
from harness.verdict import Problem
from tests.support import ROOT
from tests.support.processes import PATIENCE, interruptible


def quiet(text: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def answer() -> Answer:
    *_, complete = answer_report(REPORT_CASE, "cpu", quiet)
    return complete


def verdicts(answer: Answer) -> dict[str, str]:
    return {j.path: j.verdict for j in answer.judgements}


def test_the_reports_case_is_the_reports_setting() -> None:
    """One query of 32 heads by 128 in bfloat16, at slot 99 of 2048."""
    assert str(REPORT_CASE) == "S=2048,pos=99,H=32,D=128,dtype=bf16"


def test_the_full_cache_is_right_and_the_reports_slice_is_wrong(answer: Answer) -> None:
    """Which side of the 101 % is wrong."""
    assert verdicts(answer) == {
        "full-cache": "OK",
        "fixed": "OK",
        "fixed-packed": "UNSUPPORTED",
        "sliced-offset": "OK",
        "sdpa-sliced": "OK",
        "sdpa-full": "OK",
        "sliced-as-reported": "WRONG",
        "full-cache-unmasked": "LEAK",
    }
    assert answer.unexpected == ()


def test_all_four_figures_reproduce(answer: Answer) -> None:
    """The report's numbers are real: each lies in the range over seeds."""
    assert [f.name for f in answer.figures if f.reproduces] == [
        "mean error",
        "relative error in %",
        "full cache std",
        "sliced cache std",
    ]


def test_the_reports_slice_is_the_value_of_slot_0(answer: Answer) -> None:
    """Bit for bit: its one query sits at position 0."""
    reported = next(j for j in answer.judgements if j.path == "sliced-as-reported")
    value = make_inputs(REPORT_CASE).value_cache
    assert reported.output is not None
    assert torch.equal(reported.output, value[:, :, :1])
    assert any("v[:, :, :1] bit for bit" in sentence for sentence in answer.finding)


def test_every_claim_gets_a_verdict_with_evidence(answer: Answer) -> None:
    """All of them, in few words."""
    assert {claim.text: claim.verdict for claim in answer.claims} == {
        "full cache gives 101 % relative error": "true of the number, false of the full cache",
        "KVCache.update returns uninitialized positions": (
            "true of the buffer, harmless behind the mask"
        ),
        "full cache wastes computation on invalid positions": (
            "true in eager; compiled: not run (--compile)"
        ),
        "severe at longer contexts": "false of the full cache",
        "slicing the cache fixes it": "false",
        "slicing changes shapes every step": "true",
        "slicing is the right path, and slow": "not run (--compile)",
    }
    assert all(claim.evidence for claim in answer.claims)


def test_the_answer_reads_on_a_terminal_and_as_json(answer: Answer) -> None:
    """100 columns, the outcome last, and the same verdicts in both."""
    text = render(answer)
    assert text.splitlines()[-1] == "the recorded outcome"
    table = [line for line in text.splitlines() if not line.startswith("torch ")]
    assert max(map(len, table)) <= 100
    document = json.loads(to_json(answer))
    assert document["expected"] is True
    assert {p["path"]: p["verdict"] for p in document["paths"]} == verdicts(answer)


@pytest.mark.compiles
def test_the_compiled_full_cache_reads_listed_blocks_alone() -> None:
    """NaN in every other block changes no bit; in eager, and in the listed block, it would."""
    compiled = Problem.of(DecodeCase.from_text("S=300,pos=100,H=2,D=32,mode=compiled"))
    assert wasted(compiled, "cpu").verdict == "false when compiled"
    assert ignores_nan_from(128, compiled.inputs)
    assert not ignores_nan_from(101, compiled.inputs)
    eager = Problem.of(compiled.case.replace(mode="eager"))
    assert not ignores_nan_from(128, eager.inputs)


def test_what_is_known_is_printed_first_and_an_interrupt_keeps_it() -> None:
    """To a pipe too: which side is wrong, before anything is explained; then exit 130."""
    command = [sys.executable, "-m", "harness", "repro", "--cache-len", "200"]
    with interruptible():
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "The side at fault is the other one: the sliced cache." in line:
            break
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == cli.INTERRUPTED, errors
    assert "1. The answer\n" in said
    assert errors.endswith("interrupted\n")
    assert "outcome" not in rest


def test_what_is_known_after_each_step_stays_as_it_was_told() -> None:
    """Each answer begins with the lines of those before it."""
    told = [*answer_report(REPORT_CASE.replace(heads=2, kv_heads=2, cache_len=128), "cpu", quiet)]
    texts = [[*lines(one)] for one in told]
    assert all(later[: len(text)] == text for text, later in itertools.pairwise(texts))
    assert len(texts) > len(PATHS)
    assert "1. The answer" in texts[2]
    assert not any("explains" in line for line in texts[2])


def test_at_position_0_both_sides_are_right() -> None:
    """Only slot 0 is filled: the outcome that is expected there."""
    *_, answer = answer_report(REPORT_CASE.replace(input_pos=(0,), cache_len=200), "cpu", quiet)
    assert verdicts(answer)["sliced-as-reported"] == "OK"
    assert answer.unexpected == ()
    assert answer.finding[0] == "On this case both sides are right."
