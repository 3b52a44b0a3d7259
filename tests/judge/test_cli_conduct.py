"""The command line under strain: its own failures, closed pipes, full disks, and words that it does
not know."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.commands import figures
from tests.support import TARGETS
from tests.support.command import command
from tests.support.processes import PATIENCE

# ``keep`` stands for any command: it prints more than a pipe holds, or raises.
_PRINTS = """
import sys
from harness import cli
from harness.commands import keep

def run(arguments):
    for number in range(100_000):
        print("line", number)
    return cli.NOT_OK

keep.run = run
sys.exit(cli.entry())
"""
# A line of the command line in a process that can import nothing heavy.
_BARRED = """
import sys

class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "hypothesis", "matplotlib", "transformers", "numpy"):
            raise SystemExit(f"imported {name}")

sys.meta_path.insert(0, Barred())
from harness import cli
for line in sys.stdin.read().splitlines():
    print(line, "->", cli.main(line.split()), file=sys.stderr)
"""
_LINES = (
    "chek mine.py:decode",
    "check",
    "check mine.py:decode --jason a.json",
    "check mine.py:decode --dtypes int3",
    "check mine.py:decode",
    "check mine.py:decode --case S=4",
    "check harness:decode --head-dims 0",
    "check harness:decode --cache-len 9:3",
    "check harness:decode --precision q=bf16",
    "repro S=4",
    "repro S=4,pos=9",
    "repro mine.py",
    "repro --position 1/2",
    "check mine.py:decode --calls next",
    "check mine.py:decode --json /no/such/a.json",
    "check mine.py:decode --seed -1",
    "check mine.py:decode --supports gqu",
    "audit llama",
    "gate --budget x",
    "hunt --seconds 0",
    "versions nofile.py",
    "figures --out /proc/a",
    "bench nothing",
)


def _printing(stdout: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _PRINTS, "keep", "a", "S=2,pos=1", "--source", "a"]
    return subprocess.Popen(words, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_a_pipe_that_closes_leaves_the_exit_code_as_it_is() -> None:
    """As with ``| head -1``: no traceback, and the verdict's code."""
    process = _printing(subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.wait(PATIENCE) == cli.NOT_OK
    assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not run: no /dev/full")
def test_an_output_that_is_lost_is_one_line_and_exit_2() -> None:
    """As on a disk that is full."""
    full = os.open("/dev/full", os.O_WRONLY)
    process = _printing(full)
    os.close(full)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == cli.USAGE
    assert said == "harness: error: standard output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not run: no /dev/full")
def test_what_was_known_is_printed_where_the_disk_fills(capsys: pytest.CaptureFixture[str]) -> None:
    """The answer comes before the file."""
    assert command("repro", "S=2,pos=1,D=16", "--json", "/dev/full") == cli.USAGE
    captured = capsys.readouterr()
    assert "full-cache" in captured.out
    assert captured.err.splitlines()[-1].endswith("/dev/full: No space left on device")


def test_a_failure_of_the_harness_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says so, exit 4, and the traceback where it is asked for."""

    def fails(_: object) -> int:
        raise KeyError("planted")

    monkeypatch.setattr(figures, "run", fails)
    assert command("figures") == cli.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert "the harness itself failed, which is no verdict: KeyError: 'planted'" in line
    assert "report it" in line
    assert command("figures", "--traceback") == cli.FAILED
    assert capsys.readouterr().err.startswith("Traceback (most recent call last)")


def test_a_failure_in_a_worker_is_no_verdict_on_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither where it judges, nor where it loads the function."""
    # The file breaks the harness in the worker's process, and the test in this one.
    breaks = (
        "\n\nfrom harness.function import run\n\ndef fails(*_):\n    raise KeyError('planted')\n"
    )
    file = tmp_path / "mine.py"
    text = Path(TARGETS).read_text()
    for part in ("judge", "hints"):
        file.write_text(f"{text}{breaks}\nrun.{part} = fails\n")
        with monkeypatch.context() as patched:
            from harness.function import run

            patched.setattr(run, part, _fails)
            assert command("check", f"{file}:sound", "--case", "S=2,pos=1,D=16") == cli.FAILED
        assert "no verdict: KeyError: 'planted'" in capsys.readouterr().err.splitlines()[-1]


def _fails(*_: object) -> None:
    raise KeyError("planted")


def test_a_bare_command_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each command; exit 2, since nothing was judged."""
    assert command() == cli.USAGE
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    listed = [words[0] for words in lines if len(words) > 3]
    assert listed[:4] == ["usage:", "repro", "keep", "check"]
    assert "figures" in listed


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("chek a.py:f", "check"),
        ("check a.py:f --jason x", "--json"),
        ("check a.py:f --js x", "--json"),
        ("check a.py:f --supports gqu", "gqa"),
        ("bench step", "steps"),
        ("repro S=4,pos=1,dtpe=bf16", "dtype"),
        ("repro S=4,pos=1,mask=windw:2", "window"),
    ],
)
def test_a_typo_gets_a_suggestion_and_an_abbreviation_is_none(
    words: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a command, an option, a value, a key of a case."""
    assert command(*words.split()) == cli.USAGE
    assert f"did you mean {meant}?" in capsys.readouterr().err.splitlines()[-1]


def test_a_wrong_command_line_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    """Not even torch, which takes seconds."""
    ran = subprocess.run(
        [sys.executable, "-c", _BARRED],
        input="\n".join(_LINES),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    answers = [line for line in ran.stderr.splitlines() if " -> " in line]
    assert answers == [f"{line} -> {cli.USAGE}" for line in _LINES], ran.stderr


def test_windows_is_refused_in_a_line() -> None:
    """There is neither fork nor an alarm there."""
    code = "import sys; sys.platform = 'win32'; import harness.__main__ as m; sys.exit(m.main())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == cli.USAGE
    assert ran.stderr.startswith("harness: error: needs Linux or macOS, on Windows WSL")
