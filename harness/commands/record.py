"""``python -m harness record`` and ``history``: write the ledger, compare with it, and show it."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.options import NOT_OK, OK, USAGE, UsageError, sharing, some_of, whole
from harness.ledger.cases import MODES, VERSION
from harness.ledger.entries import Change, Entry, Ledger, LedgerError, ledger_file, load, save
from harness.support.files import check_writable
from harness.support.progress import progress_to_stderr

if TYPE_CHECKING:
    Compared = list[tuple[Change, Entry, Entry | None]]


def add(commands: Any) -> None:
    """Add the subcommands to an argparse parser's subparsers."""
    record = commands.add_parser(
        "record",
        help="measure the fixed cases and record, or check, how much of its budget each path uses",
        description="Writes fixtures/tolerances/DEVICE.json. With --check it compares and writes"
        " nothing: exit 1 where an entry is loosened (REGRESSED).",
        parents=sharing("--device", "--dtypes", "--kernels", "--multiprocessors"),
    )
    record.set_defaults(run=_record)
    record.add_argument("--check", action="store_true", help="compare with the record")
    record.add_argument("--accept", default="", metavar="REASON", help="record loosened entries")
    record.add_argument(
        "--modes",
        type=some_of(*MODES),
        default=MODES,
        help="eager, compiled or both (default; compiled alone with other --kernels)",
    )
    record.add_argument("--threads", type=whole(1), default=1, help="of the CPU (default 1)")
    what = "keep entries under this name of torch, for builds whose version is new every night"
    record.add_argument("--torch-name", metavar="NAME", help=what)
    what = "processes (default 1)"
    record.add_argument("--jobs", type=whole(1), default=1, metavar="N", help=what)
    record.add_argument("--ledger", type=Path, metavar="FILE", help="another ledger file")
    history = commands.add_parser(
        "history",
        help="how recorded tolerances moved over torch versions",
        description="Prints one table a path; entries of other hardware or threads apart.",
    )
    history.set_defaults(run=_history)
    history.add_argument("path", nargs="?", help="one path (default: all)")
    history.add_argument("--ledger", type=Path, default=ledger_file("cpu"), metavar="FILE")


def read_or_error(file: Path) -> Ledger:
    """Read a ledger of the present list of cases.

    Raises:
        UsageError: for any other file; the message names the file and the field.
    """
    try:
        ledger = load(file)
    except LedgerError as error:
        raise UsageError(str(error)) from None
    if ledger.case_list != VERSION:
        raise UsageError(f"{file}: case_list: {ledger.case_list} is not {VERSION}; record anew")
    return ledger


def _record(arguments: argparse.Namespace) -> int:
    device = arguments.device
    modes = ("compiled",) if arguments.kernels != "cpp" else arguments.modes
    if arguments.check and arguments.accept:
        raise UsageError("--accept: goes with recording, not with --check")
    file = arguments.ledger or ledger_file(device)
    if not arguments.check:
        for variable in ("CI", "PYTEST_XDIST_WORKER"):
            if os.environ.get(variable):
                raise UsageError(f"{variable} is set: tolerances are recorded by hand, not there")
        check_writable(file)
    if arguments.check and not file.exists():
        raise UsageError(f"{file}: there is no ledger to check against")
    ledger = read_or_error(file) if file.exists() else Ledger()

    import torch

    from harness.ledger.measure import Unrecordable

    torch.set_num_threads(arguments.threads)
    try:
        measured = _measured(arguments, modes)
    except Unrecordable as error:
        print(f"nothing recorded: {error}")
        return NOT_OK
    if arguments.torch_name:
        measured = [dataclasses.replace(entry, torch=arguments.torch_name) for entry in measured]
    compared = ledger.compare(measured)
    print("\n".join(render(compared)))
    loosened = [entry for change, entry, _ in compared if change is Change.LOOSENED]
    if arguments.check:
        if all(change in (Change.MISSING, Change.UNUSED) for change, *_ in compared):
            print("nothing could be judged: no record of this torch, hardware and threads")
            return USAGE
        return NOT_OK if loosened else OK
    if loosened and not arguments.accept.strip():
        print("nothing recorded: loosened entries need --accept REASON")
        return NOT_OK
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    save(ledger.updated(measured, arguments.accept, today), file)
    print(file)
    return OK


def _measured(arguments: argparse.Namespace, modes: Sequence[str]) -> list[Entry]:
    from harness.isolation.campaign import gather
    from harness.isolation.pool import processes
    from harness.ledger.measure import Unrecordable, measure_all, measure_piece

    device, dtypes, kernels = arguments.device, arguments.dtypes, arguments.kernels
    progress = progress_to_stderr()
    if arguments.jobs == 1:
        return list(measure_all(device, dtypes, modes, progress, kernels))
    pieces = [(device, d, mode, kernels, arguments.threads) for mode in modes for d in dtypes]
    with processes(arguments.jobs) as executor:
        measured: list[Entry] = []
        for found in gather(
            executor,
            measure_piece,
            pieces,
            at_once=arguments.jobs,
            told=lambda done: progress(f"{done} of {len(pieces)} dtypes and modes"),
        ):
            if isinstance(found, str):
                raise Unrecordable(found)
            measured += found
        return measured


def render(compared: Compared) -> Iterator[str]:
    """A line for each entry that is not the same as its record, and the number of each change."""
    counts = dict.fromkeys(Change, 0)
    for change, entry, record in compared:
        counts[change] += 1
        if change is Change.SAME:
            continue
        if record is None or change is Change.UNUSED:
            yield f"{change}: {entry.key_text}: {entry.figures}"
            continue
        verdict = "REGRESSED: " if change is Change.LOOSENED else ""
        yield (
            f"{verdict}{change}: {entry.key_text}: {entry.figures}; recorded {record.figures};"
            f" worst case {entry.worst_case}"
        )
    yield ", ".join(f"{count} {change}" for change, count in counts.items())


def _history(arguments: argparse.Namespace) -> int:
    ledger = read_or_error(arguments.ledger)
    from harness.paths import PATHS

    if arguments.path is not None and arguments.path not in PATHS:
        raise UsageError(f"path: {arguments.path!r} is not one of {' '.join(PATHS)}")
    lines = list(_versions(ledger, arguments.path))
    if not lines:
        print("nothing recorded")
        return USAGE
    print("\n".join(lines))
    return OK


def _versions(ledger: Ledger, path: str | None) -> Iterator[str]:
    from harness.support.text import table, version_order

    groups: dict[tuple[Any, ...], dict[str, Entry]] = {}
    for entry in ledger.entries.values():
        if path in (None, entry.path):
            # ``hardware`` says of interpreted kernels that they are.
            key = (entry.hardware, entry.threads, entry.mode, entry.path, entry.dtype, entry.kind)
            groups.setdefault(key, {})[entry.torch] = entry
    versions = sorted({v for g in groups.values() for v in g}, key=version_order)
    rows = []
    for key, by_version in sorted(groups.items()):
        cells = [
            f"{e.worst_utilisation:.3g} / {e.median_utilisation:.3g}" if e else "no record"
            for e in map(by_version.get, versions)
        ]
        accepted = sum(len(e.accepted) for e in by_version.values())
        rows.append([" ".join(map(str, key)), *cells, str(accepted) if accepted else ""])
    if rows:
        yield "worst / median share of the rounding budget, by torch version"
        yield from table(["entry", *versions, "accepted"], rows)
