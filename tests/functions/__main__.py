"""``python -m tests.functions``: check every function as its users would, and say what was found.

``--table`` prints the table of docs/faults.md from what was written."""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import hypothesis  # noqa: F401  # for the forks
import torch

from harness.support.files import check_writable
from tests.functions import FUNCTIONS
from tests.functions.measure import Row, measure
from tests.functions.table import line, markdown, read, totals, write

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "fixtures" / "faulty-functions.json"
BEFORE = ROOT / "fixtures" / "faulty-functions-before.json"


def main(argv: list[str] | None = None) -> int:
    """0 where no sound function is accused and 95 % of the faulty ones are caught, else 1; 130
    after an interrupt, with what was measured until then."""
    parser = argparse.ArgumentParser(prog="python -m tests.functions", description=__doc__)
    parser.add_argument("--names", default="", help="those whose names hold one of these, by comma")
    parser.add_argument("--jobs", type=int, default=1, help="checks at a time")
    written = f"write what was found, as {WRITTEN.name} has it; rows of others in it are kept"
    parser.add_argument("--json", type=Path, metavar="FILE", help=written)
    parser.add_argument("--table", action="store_true", help="print docs/faults.md's table, no run")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(markdown(read(BEFORE), read(WRITTEN)))
        return 0
    if arguments.json is not None:
        check_writable(arguments.json)
    words = arguments.names.split(",")
    chosen = {name: e for name, e in FUNCTIONS.items() if any(word in name for word in words)}
    if not chosen:
        parser.error(f"--names: {arguments.names!r} is part of no name")
    # One thread each: checks that run side by side would wait for each other's.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    start, rows, interrupted = time.monotonic(), dict[str, Row](), False
    count = f"{len(chosen)} function{'s' if len(chosen) > 1 else ''}"
    try:
        print(f"{count}, {arguments.jobs} at a time", file=sys.stderr, flush=True)
        for row in measure(chosen.items(), arguments.jobs):
            rows[row.name] = row
            told = f"[{time.monotonic() - start:5.0f} s] {len(rows)} of {len(chosen)}"
            print(f"{told} {line(row)}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        interrupted = True
    ordered = [rows[name] for name in chosen if name in rows]
    for row in ordered:
        if row.result not in ("caught", "passed") or (row.repro and not row.shows_again):
            print(line(row))
    if ordered:
        print(totals(ordered))
    if arguments.json is not None:
        kept = {row.name: row for row in read(arguments.json)} if arguments.json.exists() else {}
        now = {row.name: dataclasses.replace(row, commit=_commit()) for row in ordered}
        all_rows = kept | now
        write(arguments.json, [all_rows[name] for name in FUNCTIONS if name in all_rows])
    if interrupted:
        return 130
    faulty = [row for row in ordered if not FUNCTIONS[row.name].sound]
    caught = sum(row.result == "caught" for row in faulty)
    accused = any(row.result == "accused" for row in ordered)
    return int(accused or caught < 0.95 * len(faulty))


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
