"""The functions by which ``check`` is measured: none is a dud, and what is found of them.

``python -m tests.functions`` measures all of them, which takes half an hour; here by day a few.
"""

import contextlib
import dataclasses
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from harness import cli
from harness.case import DecodeCase
from harness.case.features import FEATURES
from harness.support.files import UnwritableFile
from harness.verdict import Verdict
from tests.functions import CATEGORIES, FUNCTIONS, __main__
from tests.functions.measure import Row, judged, measure
from tests.functions.shown import Once
from tests.functions.shown_conduct import Ends, in_fork
from tests.functions.table import line, markdown, read, totals, write
from tests.support import ROOT
from tests.support.day import nightly, parts
from tests.support.processes import interruptible

RECORDED = ROOT / "fixtures" / "faulty-functions.json"
BEFORE = ROOT / "fixtures" / "faulty-functions-before.json"
FAULTY = {name: entry for name, entry in FUNCTIONS.items() if not entry.sound}
SOUND = {name: entry for name, entry in FUNCTIONS.items() if entry.sound}
# Cheap ones of several categories; a machine finds each of them in its first cases.
BY_DAY = ("sizes.vector_tail_of_16", "conduct.gradients_left_on", "state.mask_by_shape")
SOUND_BY_DAY = ("orders.split_by_doubling", "keepers.workspace_copied_out", "declared.query_scaled")


def row(result: str, category: str = "sizes", **values: object) -> Row:
    """A row with little in it."""
    return dataclasses.replace(Row("sizes.a", category, result, "WRONG", 2.0), **values)  # type: ignore[arg-type]


def test_the_registry_is_well_formed() -> None:
    """Enough of both kinds; each says its mistake in a sentence, with verdicts that there are."""
    assert len(FAULTY) >= 60
    assert len(SOUND) >= 30
    assert {entry.category for entry in FUNCTIONS.values()} == set(CATEGORIES)
    for name, entry in FUNCTIONS.items():
        assert entry.mistake.endswith("."), name
        assert entry.verdicts <= {*Verdict}, name
        assert entry.sound == (entry.verdicts == {"OK"} and not entry.says), name
        assert set(getattr(entry.function, "supports", ())) <= set(FEATURES), name
        if entry.shown is not None:
            DecodeCase.from_text(entry.shown.case)
    mistakes = Counter(entry.mistake for entry in FUNCTIONS.values())
    assert [text for text, count in mistakes.items() if count > 1] == []


@pytest.mark.parametrize("names", parts(FAULTY, 3))
def test_no_faulty_function_is_a_dud(names: list[str]) -> None:
    """Each shows its mistake on the case or the calls that the registry names."""
    torch.set_num_threads(1)
    duds = []
    for name in names:
        entry = FAULTY[name]
        assert entry.shown is not None
        if not in_fork(entry.shown, entry.function):
            duds.append(name)
    assert duds == []


@pytest.mark.parametrize("names", parts(FAULTY, 4))
def test_a_sound_function_shows_nothing(names: list[str]) -> None:
    """What shows a mistake shows none in a sound function, and in one that survives."""
    sound = FUNCTIONS["orders.at_once"].function
    for entry in map(FAULTY.__getitem__, names):
        if isinstance(entry.shown, Once | Ends):
            assert not in_fork(entry.shown, sound), entry.name


@pytest.mark.parametrize("name", [n if n in BY_DAY else nightly(n) for n in FAULTY])
def test_a_faulty_function_is_caught(name: str) -> None:
    """Unless the recorded measurement says that it is not."""
    missed = {r.name for r in read(RECORDED) if r.result != "caught" and r.name in FAULTY}
    if name in missed:
        pytest.skip("not run: the recorded measurement misses it too")
    [found] = measure([(name, FAULTY[name])], 1)
    assert found.result == "caught", line(found)


def test_more_are_caught_than_before() -> None:
    """Of those that were measured again."""
    after = {r.name: r.result for r in read(RECORDED)}
    before = {r.name: r.result for r in read(BEFORE) if r.name in after}
    assert [*after.values()].count("caught") > [*before.values()].count("caught")


@pytest.mark.parametrize("options", [("--max-examples", "30", "--no-isolation"), nightly(())])
@pytest.mark.parametrize("name", [n if n in SOUND_BY_DAY else nightly(n) for n in SOUND])
def test_a_sound_function_is_not_accused(name: str, options: tuple[str, ...]) -> None:
    """At the defaults by night, with fewer examples by day."""
    [found] = measure([(name, SOUND[name])], 1, options)
    assert found.result == "passed", line(found)


def test_the_files_are_of_the_functions_that_there_are() -> None:
    """In their order, before the change all of them; no sound one was accused after it."""
    assert [r.name for r in read(BEFORE)] == list(FUNCTIONS)
    measured = {r.name: r for r in read(RECORDED)}
    assert list(measured) == [name for name in FUNCTIONS if name in measured]
    for name, found in measured.items():
        assert found.category == FUNCTIONS[name].category
        assert found.result in ("passed" if FUNCTIONS[name].sound else "caught misnamed missed")


@pytest.mark.parametrize(
    ("name", "code", "verdict", "text", "result"),
    [
        ("sizes.slot_4096", 1, "WRONG", "WRONG", "caught"),
        ("sizes.slot_4096", 1, "CRASH", "CRASH", "misnamed"),
        ("sizes.slot_4096", 0, "OK", "OK", "missed"),
        ("sizes.slot_4096", 2, "REFUSED", "", "refused"),
        ("conduct.aborts_with_a_message", 1, "CRASH", "CRASH, misaligned address", "caught"),
        ("conduct.aborts_with_a_message", 1, "CRASH", "CRASH", "misnamed"),
        ("conduct.window_taken_undeclared", 0, "OK", "OK; takes window", "caught"),
        ("conduct.window_taken_undeclared", 0, "OK", "OK", "missed"),
        ("orders.sdpa", 0, "OK", "OK", "passed"),
        ("orders.sdpa", 1, "WRONG", "WRONG", "accused"),
        ("orders.sdpa", 2, "REFUSED", "", "refused"),
    ],
)
def test_a_catch_needs_a_verdict_that_is_right(
    name: str, code: int, verdict: str, text: str, result: str
) -> None:
    """And the words that belong to it; any failure of a sound function is an accusation."""
    assert judged(FUNCTIONS[name], code, verdict, text) == result


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """As JSON, one row a line; another schema is refused, another directory too."""
    rows = [row("caught", repro="WRONG"), row("missed", verdict="OK")]
    path = tmp_path / "functions.json"
    write(path, rows)
    assert read(path) == rows
    path.write_text('{"schema": 0}')
    with pytest.raises(ValueError, match="schema: 0 is not 1"):
        read(path)
    with pytest.raises(UnwritableFile):
        write(tmp_path / "missing" / "functions.json", rows)


def test_the_table_counts_by_category(capsys: pytest.CaptureFixture[str]) -> None:
    """Before and after; what a printed command shows again; accusations of sound functions."""
    before = [row("missed"), row("misnamed"), row("refused", "orders"), row("accused", "orders")]
    after = [
        row("caught", repro="WRONG"),
        row("caught", repro="OK"),
        *[row("passed", "orders")] * 2,
    ]
    lines = markdown(before, after).splitlines()
    assert lines[2] == "| sizes | 2 | 0 | 2 | 1 |  |"
    assert lines[3] == "| orders | 2 |  |  |  | 0 (before 2) |"
    assert "2 functions: 2 caught, 0 misnamed, 0 missed" in totals(after)
    assert __main__.main(["--table"]) == 0
    assert "| sizes |" in capsys.readouterr().out


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With what was given."""
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["--names", "no_such_function"])
    assert "--names: 'no_such_function' is part of no name" in capsys.readouterr().err


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a check: exit code 130, and a file of what was known by then."""
    file = tmp_path / "a.json"
    command = [sys.executable, "-m", "tests.functions", "--names", "orders.slow"]
    with (
        interruptible(),
        subprocess.Popen(
            [*command, "--json", str(file)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        assert process.stderr.readline() == "1 function, 1 at a time\n"
        # Python drops an interrupt that arrives just when the process forks, as a user's.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        out, _ = process.communicate()
    assert process.returncode == cli.INTERRUPTED
    assert out == ""
    assert read(file) == []


def test_rows_of_other_functions_are_kept(tmp_path: Path) -> None:
    """A part measured again, the rest as it stood, in the registry's order."""
    file = tmp_path / "a.json"
    old = [row("missed", name="sizes.slot_4096"), row("missed", "orders", name="orders.sdpa")]
    write(file, old)
    assert __main__.main(["--names", "conduct.raises_inside_torch", "--json", str(file)]) == 0
    first, second, third = read(file)
    assert (first, third) == (old[0], old[1])
    assert (second.verdict, second.result) == ("ERROR", "caught")
