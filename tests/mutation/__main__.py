"""``python -m tests.mutation --sample 300 --seed 0``: try mutants, write the record.

A run that was stopped goes on where it was: the record is its session. ``--again`` tries those
again that survived, after tests were added; ``--table`` prints the table of docs/power.md.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.support.files import UnwritableFile, check_writable, write_atomically
from tests.mutation import DAY, ROOT, SUBJECTS, TESTS
from tests.mutation.record import SCHEMA, as_json, markdown, name, read

DEFAULT = ROOT / "fixtures" / "mutation.json"
KEPT = ROOT / ".mutation"


def main(argv: list[str] | None = None) -> int:
    """0; 2 for bad usage; 130 where it was interrupted, with what was tried in the record."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=300, help="mutants, one of a place")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--json", type=Path, default=DEFAULT, help="default: fixtures/mutation.json"
    )
    parser.add_argument("--again", action="store_true", help="try those that survived again")
    parser.add_argument("--table", action="store_true", help="print the record's table, no run")
    arguments = parser.parse_args(argv)
    try:
        before = read(arguments.json) if arguments.table or arguments.json.exists() else {}
        if arguments.sample < 1:
            raise ValueError(f"--sample {arguments.sample}: allowed is 1 or more")
        if not arguments.table:
            check_writable(arguments.json)
    except (ValueError, UnwritableFile) as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.table:
        print(markdown(before))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has it ignored
        signal.signal(number, signal.default_int_handler)
    try:
        run(arguments, before)
    except KeyboardInterrupt:
        print("interrupted: run it again to go on", file=sys.stderr)
        return 130
    return 0


def run(arguments: argparse.Namespace, before: dict[str, Any]) -> None:
    """Measure what is covered, then try mutant after mutant."""
    # They take seconds to import, or are not installed where the table is printed.
    from tests.mutation.covered import covered
    from tests.mutation.forked import copied
    from tests.mutation.mutants import Mutant
    from tests.mutation.trial import tried, unsound

    with copied() as copy:
        head: dict[str, Any] = {
            "schema": SCHEMA,
            "seed": arguments.seed,
            "day": DAY,
            "tools": {tool: version(tool) for tool in ("cosmic-ray", "coverage", "torch")},
            "subjects": {m: hashlib.sha256((copy / m).read_bytes()).hexdigest() for m in SUBJECTS},
        }
        rows = drawn(copy, arguments.sample, head, before)
        for row in rows:
            if arguments.again and row["outcome"] in ("survived", "untested"):
                row["outcome"] = None
        write_atomically(arguments.json, as_json(head, rows))
        cover = covered(copy, KEPT, say)
        while True:
            why = dict(Counter(cover.left_out.values()).most_common())
            head["tests"] = {"modules": TESTS, "run": len(cover.cost), "left_out": why}
            for number, row in enumerate(rows, 1):
                if row["outcome"] is None:
                    mutant = Mutant(*(row[field] for field in Mutant.__match_args__))
                    row.update(tried(copy, mutant, cover))
                    write_atomically(arguments.json, as_json(head, rows))
                    text = f"{name(row)}: {row['outcome']}, {row['cpu_s']} CPU s"
                    say(f"{number}/{len(rows)} {text}")
            # What fails without a mutant has killed none.
            failing = unsound(copy, (row["by"] for row in rows), cover)
            for test in failing:
                cover.left_out[test] = "fails after others"
                del cover.cost[test]
            for row in rows:
                if row["by"] in failing:
                    row["outcome"] = None
            if not failing:
                break
        write_atomically(arguments.json, as_json(head, rows))
    print(markdown(read(arguments.json)))


def drawn(
    copy: Path, count: int, head: dict[str, Any], before: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row for each mutant of the sample, with what the record has of it where its module is the
    same; the record's own rows, where they are that sample."""
    from tests.mutation.mutants import mutated, sample
    from tests.mutation.trial import changed_line

    rows: list[dict[str, Any]] = before.get("mutants", [])
    then = before.get("subjects", {})
    if (before.get("seed"), then, len(rows)) == (head["seed"], head["subjects"], count):
        return rows
    known = {(m["module"], m["operator"], m["occurrence"]): m for m in rows}
    found = []
    for mutant in sample(copy, SUBJECTS, count, head["seed"]):
        row = known.get((mutant.module, mutant.operator, mutant.occurrence))
        if row is None or then[mutant.module] != head["subjects"][mutant.module]:
            text = (copy / mutant.module).read_text(encoding="utf-8")
            was, becomes = changed_line(text, mutated(mutant, text) or "")
            row = {**vars(mutant), "was": was, "becomes": becomes, "outcome": None}
        found.append(row)
    return found


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
