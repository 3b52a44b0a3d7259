"""torch's Triton kernels in the interpreter: which ran, on what versions, from which command.

Each test asks a process of its own, since Triton decides when it is imported.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cli
from harness.interpreter import gpu
from harness.paths import PATHS
from tests.support.interpreting import Interpreting, triton

pytestmark = pytest.mark.interprets


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("S=100,pos=50,H=2,D=16", "flex_decoding 16x64 in 4 splits"),
        ("S=100,B=4,pos=50,D=16", "flex_decoding 16x64 in 2 splits"),
        ("S=100,pos=50,H=3,Hkv=1,D=16", "flex_attention 64x64"),
        ("S=130,pos=0,H=1,D=16,Q=128", "flex_attention 64x64"),
    ],
)
def test_which_kernel_ran_is_recorded(interpreting: Interpreting, text: str, kernel: str) -> None:
    """The template, its tile, and the number of splits."""
    answer = interpreting.judge("full-cache", triton(text))
    assert answer["verdict"] == "OK", answer
    assert answer["kernels"] == [kernel]


def test_bfloat16_is_converted_as_torch_does(interpreting: Interpreting) -> None:
    """All 65536 numbers widened, and the ties between them and their neighbours rounded."""
    assert interpreting.run("bfloat16") == {"widened": True, "rounded": True}


def test_numbers_of_16_bits_are_rounded_after_each_operation(interpreting: Interpreting) -> None:
    """As torch rounds them; a sum after each addition."""
    assert interpreting.run("numbers_of_16_bits") == {"bfloat16": True, "float16": True}


def test_leaving_out_what_has_no_effect_changes_no_bit(interpreting: Interpreting) -> None:
    """Both kernels; a reduction of numbers, ties, infinities and NaN."""
    for text in ("S=200,pos=60/197,H=4,Hkv=2,D=16", "S=100,pos=60/20,H=3,Hkv=1,D=16,dtype=fp16"):
        assert interpreting.run("same_without_overhead", str(triton(text)))
    assert interpreting.run("same_reductions")


def test_torch_is_as_it_was_afterwards(interpreting: Interpreting) -> None:
    """C++ kernels can be compiled in the same process."""
    assert interpreting.run("untouched")


def test_a_process_that_was_not_started_for_it_says_so() -> None:
    """UNSUPPORTED, with the remedy, where Triton does not interpret."""
    case = triton("S=100,pos=50,D=16")
    assert "--kernels triton" in (PATHS["fixed"].unsupported(case, "cpu") or "")


@pytest.mark.parametrize(
    ("package", "known"), [("KNOWN_TORCH", "torch"), ("KNOWN_TRITON", "triton")]
)
def test_an_unknown_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, package: str, known: str
) -> None:
    """No verdict on kernels that no GPU would run."""
    monkeypatch.setattr(gpu, package, ("0.0.1",))
    assert f"changes {known} 0.0.1" in (gpu.missing() or "")


def test_the_command_starts_a_process_that_interprets(tmp_path: Path) -> None:
    """Exit code 0, and the JSON says which kernels ran."""
    file = tmp_path / "answer.json"
    arguments = ["repro", "--kernels", "triton", "--multiprocessors", "2", "--json", str(file)]
    assert cli.main([*arguments, "S=40,pos=30,H=2,D=16"]) == cli.OK
    ran = {path["path"]: path["kernels"] for path in json.loads(file.read_text())["paths"]}
    assert ran["full-cache"] == ran["fixed"] == ["flex_decoding 16x64 in 2 splits"]
    assert ran["sdpa-full"] == []


def test_the_bug_report_is_answered_on_interpreted_kernels(interpreting: Interpreting) -> None:
    """Each claim is judged as on C++ kernels, but no time is taken."""
    case = triton("S=300,pos=99,H=2,D=16,dtype=bf16")
    answer = interpreting.run("report_answered", str(case))
    assert not answer["unexpected"]
    claims = answer["claims"]
    assert claims["full cache wastes computation on invalid positions"] == "false when compiled"
    assert claims["severe at longer contexts"] == "false of the full cache"
    assert claims["slicing the cache fixes it"] == "false"
    assert claims["slicing is the right path, and slow"] == "not run"


def test_a_script_that_needs_torch_alone_cannot_interpret(tmp_path: Path) -> None:
    """A usage error, before any work."""
    arguments = ["repro", "--kernels", "triton", "--script", str(tmp_path / "a.py")]
    assert cli.main([*arguments, "S=40,pos=30,H=2,D=16"]) == cli.USAGE
