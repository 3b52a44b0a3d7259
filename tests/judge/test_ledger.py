"""The ledger: strict to read, never half-written, and sharper than the budget."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path as File

import pytest
import torch

from harness import cli
from harness.isolation.campaign import gather
from harness.isolation.pool import processes
from harness.ledger.cases import KINDS, MODES, VERSION, cases
from harness.ledger.entries import Change, Entry, Ledger, LedgerError, load, save
from harness.ledger.measure import measure_piece
from harness.paths import PATHS
from tests.support.altered import altered, times
from tests.support.entries import ENTRY, LEDGER, but


@pytest.mark.parametrize(
    ("measured", "change"),
    [
        (ENTRY, Change.SAME),
        (but(worst_utilisation=0.29), Change.SAME),
        (but(worst_utilisation=0.31), Change.LOOSENED),
        (but(median_utilisation=0.13), Change.LOOSENED),
        (but(worst_utilisation=0.1), Change.TIGHTENED),
        (but(torch="2.11.0"), Change.MISSING),
        (but(threads=2), Change.MISSING),
        (but(kernels="triton"), Change.MISSING),
    ],
)
def test_a_measured_entry_is_told_apart(measured: Entry, change: Change) -> None:
    """Another key is no record, and never a regression."""
    assert LEDGER.compare([measured])[0][0] is change


def test_a_ledger_from_before_kernels_had_a_name_is_one_of_cpp(tmp_path: File) -> None:
    """Old files are read as they were meant."""
    file = tmp_path / "cpu.json"
    save(LEDGER, file)
    text = file.read_text(encoding="utf-8")
    assert '"kernels": "cpp", ' in text
    file.write_text(text.replace('"kernels": "cpp", ', ""), encoding="utf-8")
    assert load(file) == LEDGER


def test_what_was_not_measured_is_unused_only_where_it_could_have_been() -> None:
    """Another torch version's records are left alone."""
    other, elsewhere = but(path="full-cache"), but(path="gone", torch="2.11.0")
    ledger = Ledger({e.key: e for e in (ENTRY, other, elsewhere)})
    changes = [(change, entry.path) for change, entry, _ in ledger.compare([ENTRY])]
    assert changes == [(Change.SAME, "fixed"), (Change.UNUSED, "full-cache")]


def test_errors_as_good_as_none_are_the_same() -> None:
    """A needle's error of 1e-12 budgets may double."""
    tiny = but(worst_utilisation=1e-12, median_utilisation=1e-12)
    ledger = Ledger({tiny.key: tiny})
    assert ledger.compare([dataclasses.replace(tiny, worst_utilisation=1e-5)])[0][0] is Change.SAME


def test_a_loosened_entry_needs_a_reason_which_is_stored() -> None:
    """With the figures before."""
    worse = but(worst_utilisation=0.5)
    with pytest.raises(LedgerError, match="fixed float32 eager normal is loosened"):
        LEDGER.updated([worse], " ")
    accepted = LEDGER.updated([worse], "new kernel", "2026-12-01").entries[ENTRY.key]
    assert accepted.worst_utilisation == 0.5
    assert accepted.accepted[0]["reason"] == "new kernel"
    assert accepted.accepted[0]["worst_before"] == 0.2


def test_an_entry_within_the_margins_cannot_creep() -> None:
    """Results anew it keeps its figures."""
    assert LEDGER.updated([but(worst_utilisation=0.29)]).entries[ENTRY.key] == ENTRY


def test_a_ledger_is_read_back_as_it_was_written(tmp_path: File) -> None:
    """Accepted reasons and margins too."""
    ledger = LEDGER.updated([but(worst_utilisation=0.5)], "why", "2026-12-01")
    save(ledger, tmp_path / "cpu.json")
    assert load(tmp_path / "cpu.json") == ledger


def _entry(**changes: object) -> Callable[[dict[str, object]], None]:
    return lambda document: document["entries"][0].update(changes)  # type: ignore[index,attr-defined]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.update(colour=1), "cpu.json: unknown field 'colour'"),
        (lambda d: d.pop("margins"), "margins: missing"),
        (lambda d: d.update(schema=2), "schema: 2 is not 1"),
        (lambda d: d["margins"].update(worst="much"), "worst: 'much' is not a number"),
        (_entry(colour=1), "entries[0]: unknown field 'colour'"),
        (_entry(kind="odd"), "entries[0].kind: 'odd' is not one of"),
        (_entry(worst_utilisation=float("nan")), "NaN is no JSON number"),
        (_entry(worst_utilisation=20.0), "worst_utilisation: 20.0 is not a number from 0 to 1"),
        (_entry(threads=0), "threads: 0 is not a whole number"),
        (_entry(date=""), "date: '' is not a text"),
        (lambda d: d["entries"].append(d["entries"][0]), "entries: a key is there twice"),
    ],
)
def test_a_bad_ledger_names_the_file_and_the_field(
    spoil: Callable[[dict[str, object]], None], message: str, tmp_path: File
) -> None:
    """And is left as it is by recording."""
    file = tmp_path / "cpu.json"
    save(LEDGER, file)
    document = json.loads(file.read_text())
    spoil(document)
    file.write_text(json.dumps(document))
    before = file.read_bytes()
    with pytest.raises(LedgerError, match=r"cpu\.json") as caught:
        load(file)
    assert message in str(caught.value)
    assert cli.main(["record", "--check", "--ledger", str(file)]) == cli.USAGE
    assert file.read_bytes() == before


def test_a_truncated_ledger_is_refused(tmp_path: File) -> None:
    """Not read as an empty one."""
    file = tmp_path / "cpu.json"
    save(LEDGER, file)
    file.write_text(file.read_text()[:200])
    with pytest.raises(LedgerError, match=r"cpu\.json"):
        load(file)


def test_the_list_of_cases_moves_only_with_its_version() -> None:
    """Whoever changes the list changes VERSION, and this digest with it."""
    texts = [str(c) for m in MODES for k in KINDS for c in cases(m, k, "float32")]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    assert (VERSION, len(texts), digest) == (1, 108, "5d1fe93652f0e9d9")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: File) -> Iterator[File]:
    """A ledger of one path on one kind of data; CI is not set, threads are given back."""
    threads = torch.get_num_threads()
    for variable in ("CI", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("harness.ledger.measure.KINDS", ("normal",))
    monkeypatch.setattr("harness.ledger.measure.PATHS", {"sdpa-full": PATHS["sdpa-full"]})
    yield tmp_path / "cpu.json"
    torch.set_num_threads(threads)


def record(file: File, *more: str) -> int:
    command = ["record", "--modes", "eager", "--dtypes", "float32", "--ledger", str(file)]
    return cli.main([*command, *more])


def test_record_check_and_history_agree(quick: File, capsys: pytest.CaptureFixture[str]) -> None:
    """What was recorded is the same when it is checked, and is shown by history."""
    assert record(quick) == cli.OK
    assert record(quick, "--check") == cli.OK
    assert "1 same, 0 no record" in capsys.readouterr().out
    assert cli.main(["history", "sdpa-full", "--ledger", str(quick)]) == cli.OK
    assert torch.__version__.partition("+")[0] in capsys.readouterr().out


def test_a_build_whose_version_is_new_every_night_has_a_record_by_name(
    quick: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another torch is checked against it."""
    assert record(quick, "--torch-name", "nightly") == cli.OK
    monkeypatch.setattr(torch, "__version__", "9.9.0.dev20990101")
    assert record(quick, "--check", "--torch-name", "nightly") == cli.OK
    assert record(quick, "--check") == cli.USAGE


def test_a_regression_fails_the_check_and_is_recorded_only_with_a_reason(
    quick: File, capsys: pytest.CaptureFixture[str]
) -> None:
    """REGRESSED, exit 1, and nothing overwritten."""
    assert record(quick) == cli.OK
    ledger = load(quick)
    (entry,) = ledger.entries.values()
    better = dataclasses.replace(entry, worst_utilisation=entry.worst_utilisation / 2)
    save(Ledger({entry.key: better}), quick)
    before = quick.read_bytes()
    assert record(quick, "--check") == cli.NOT_OK
    assert "REGRESSED: loosened: sdpa-full float32 eager normal" in capsys.readouterr().out
    assert record(quick) == cli.NOT_OK
    assert quick.read_bytes() == before
    assert record(quick, "--accept", "a reason") == cli.OK
    assert load(quick).entries[entry.key].accepted[0]["reason"] == "a reason"


def test_no_record_is_said_aloud_and_is_no_success(
    quick: File, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ledger of another torch cannot judge this one."""
    save(LEDGER, quick)
    assert record(quick, "--check") == cli.USAGE
    assert "no record of this torch" in capsys.readouterr().out


@pytest.mark.parametrize("variable", ["CI", "PYTEST_XDIST_WORKER"])
def test_nothing_is_recorded_in_ci(
    variable: str, quick: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor under xdist."""
    monkeypatch.setenv(variable, "1")
    assert record(quick) == cli.USAGE
    assert not quick.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "fast"], "--modes: 'fast'"),
        (["--dtypes", "int8"], "--dtypes: 'int8'"),
        (["--threads", "0"], "--threads: '0'"),
        (["--check", "--accept", "x"], "--accept: goes with recording"),
        (["--check", "--ledger", "/no/such.json"], "there is no ledger"),
    ],
)
def test_bad_options_are_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2."""
    assert cli.main(["record", *arguments]) == cli.USAGE
    assert message in capsys.readouterr().err


def test_a_record_without_figures_of_precision_gets_them_and_keeps_the_rest() -> None:
    """Old files are completed when they are recorded anew, and compared by what they have."""
    measured = but(worst_utilisation=0.25, exact=0.5, median_ulp=0.3, bias_ulp=0.0)
    assert LEDGER.compare([measured])[0][0] is Change.SAME
    kept = LEDGER.updated([measured]).entries[ENTRY.key]
    assert kept == but(exact=0.5, median_ulp=0.3, bias_ulp=0.0)
    worse = dataclasses.replace(measured, exact=0.3)
    assert Ledger({kept.key: kept}).compare([worse])[0][0] is Change.LOOSENED


def test_a_piece_of_the_ledger_measured_apart_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, but for the day; what cannot be recorded is told by its message."""
    given = ("cpu", "float32", "eager", "cpp", 1)
    own = measure_piece(*given)
    with processes(1) as executor:
        [apart] = gather(executor, measure_piece, [given], at_once=1)
    assert [e.key_text for e in own] == [e.key_text for e in apart]
    assert [e.figures for e in own] == [e.figures for e in apart]
    monkeypatch.setattr("harness.ledger.measure.recordable", lambda mode: [altered(times(2.0))])
    assert "altered is WRONG on" in measure_piece(*given)
