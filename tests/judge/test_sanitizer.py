"""``check --triton``: kernels in Triton's interpreter, and what is seen of them there."""

import json
import re
from pathlib import Path

import pytest

from harness import cli
from tests.support.interpreting import Interpreting

KERNELS = "tests/support/launches.py"
SMALL = ("--max-examples", "3", "--dtypes", "fp32", "--cache-len", "1:20")

pytestmark = pytest.mark.interprets


def check(name: str, *arguments: str) -> int:
    return cli.main(["check", f"{KERNELS}:{name}", *SMALL, *arguments])


@pytest.mark.parametrize("name", ["sound", "zeroed"])
def test_a_sound_kernel_is_ok_without_a_gpu(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it allocates, as long as it writes before it reads."""
    assert check(name, "--triton") == cli.OK, capsys.readouterr().out
    assert capsys.readouterr().out.startswith("OK ")


@pytest.mark.parametrize(
    ("name", "verdict", "evidence"),
    [
        ("out_of_bounds", "OUT_OF_BOUNDS", "kernel _copy_next loads element 16 of x, which has 16"),
        ("race", "RACE", "kernel _copy_times stores to element 0 of out, as another program did"),
        ("uninitialised", "UNINITIALISED", "_add loads element 0 of out, which nobody wrote"),
        ("in_order", "NONDETERMINISTIC", "the programs of each grid run in reverse order"),
    ],
)
def test_what_no_kernel_may_do_is_seen_shown_again_and_scripted(
    interpreting: Interpreting,
    name: str,
    verdict: str,
    evidence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Although the numbers are right: with the kernel, and the line or the element."""
    script = tmp_path / "show.py"
    assert check(name, "--triton", "--script", str(script)) == cli.NOT_OK
    out = capsys.readouterr().out
    text = " ".join(out.split())
    assert out.startswith(f"{verdict} ")
    assert evidence in text
    assert "--case S=1,pos=0,D=16 --dtypes fp32 --cache-len 1:20 --triton" in text
    if verdict != "NONDETERMINISTIC":
        assert "(launches.py, line " in text
    assert interpreting.run("status", str(script)) == 1
    fixed = script.read_text().replace(f").{name}", ").zeroed")
    script.write_text(fixed)
    assert interpreting.run("status", str(script)) == 0


NOTED = "kernel _copy stores to out what another program stored there, the same bits (launches.py"


def test_the_same_bits_stored_twice_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By two programs of a grid, which harms nobody: the verdict is that of the rest."""
    file = tmp_path / "a.json"
    assert check("twice", "--triton", "--json", str(file)) == cli.OK, capsys.readouterr().out
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("OK ")
    assert re.search(rf"note {re.escape(NOTED)}, line \d+\), in 3 cases", out)
    assert any(note.startswith(NOTED) for note in json.loads(file.read_text())["notes"])
    assert check("twice_and_beyond", "--triton") == cli.NOT_OK
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("OUT_OF_BOUNDS ")
    assert NOTED in out


PLAIN = "S=3,pos=2,D=16"
STEPPED = f"{PLAIN},layout=stepped"


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("no_padding", STEPPED),
        ("in_a_row", PLAIN),
        ("counts", PLAIN),
        ("locked", PLAIN),
        ("wrapped", PLAIN),
    ],
)
def test_what_only_looks_wrong_is_ok(interpreting: Interpreting, name: str, case: str) -> None:
    """Tiles of views, launches in a row, counters, locks, offsets that 32 bits do not hold."""
    assert interpreting.run("watched", name, case) == []


@pytest.mark.parametrize(
    ("name", "case", "evidence"),
    [
        (
            "padding",
            STEPPED,
            "OUT_OF_BOUNDS: kernel _copy_row loads element 16 of x, in a gap of a view: memory of"
            " no tensor that was passed",
        ),
        (
            "half_written",
            PLAIN,
            "UNINITIALISED: kernel _add loads element 0 of out, which nobody wrote",
        ),
        (
            "cleared",
            PLAIN,
            "RACE: the programs of each grid run in reverse order: kernel _count stores to element"
            " 0 of counts, which another program updates",
        ),
        (
            "unlocked",
            PLAIN,
            "RACE: kernel _add_in_turn stores to element 0 of out, as another program did",
        ),
    ],
)
def test_what_lies_close_to_it_is_seen(
    interpreting: Interpreting, name: str, case: str, evidence: str
) -> None:
    """The padding of a view, the other half of new memory, atomic beside other stores, no lock."""
    found = interpreting.run("watched", name, case)
    assert [f.partition(" (")[0] for f in found] == [evidence]


@pytest.mark.parametrize(
    ("faulty", "sound", "case", "verdict"),
    [
        ("padding", "no_padding", STEPPED, "OUT_OF_BOUNDS"),
        ("half_written", "in_a_row", PLAIN, "UNINITIALISED"),
        ("cleared", "counts", PLAIN, "RACE"),
        ("unlocked", "locked", PLAIN, "RACE"),
        ("race", "twice", PLAIN, "RACE"),
    ],
)
def test_a_script_tells_them_apart_as_well(
    interpreting: Interpreting, faulty: str, sound: str, case: str, verdict: str
) -> None:
    """Exit code 1 for the one, 0 for the other."""
    assert interpreting.run("script_status", faulty, case, verdict) == 1
    assert interpreting.run("script_status", sound, case, verdict) == 0


def test_without_the_option_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Triton's own message says nothing of what to do."""
    assert check("sound") == cli.NOT_OK
    text = " ".join(capsys.readouterr().out.split())
    assert "needs a GPU (--device cuda), or Triton's interpreter: --triton" in text
    assert "active drivers" not in text


@pytest.mark.parametrize("name", ["dots", "sums"])
def test_bfloat16_is_that_of_a_gpu(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The interpreter's own is off by 1e8, without a message."""
    dtype = ("--dtypes", "bf16")
    assert check(name, "--triton", *dtype) == cli.OK, capsys.readouterr().out


def test_bfloat16_that_is_not_interpreted_is_unsupported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Never a verdict on wrong numbers."""
    assert check("scanned", "--triton", "--dtypes", "bf16") == cli.USAGE
    assert "cumsum in bfloat16 is not interpreted" in capsys.readouterr().out
