"""``python -m tests.rivals``: measure every rule and write the table; ``--table`` prints it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from harness.support.files import check_writable
from tests.rivals import RULES
from tests.rivals.measure import all_zeros, false_alarms, measure
from tests.rivals.table import as_json, markdown, read, write

DEFAULT = Path(__file__).parents[2] / "fixtures" / "rivals.json"


def main(argv: list[str] | None = None) -> int:
    """0; 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.rivals", description=__doc__)
    parser.add_argument("--table", action="store_true", help="print docs/faults.md's table, no run")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT, help="default: fixtures/rivals.json"
    )
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(markdown(read(arguments.output)))
        return 0
    check_writable(arguments.output)
    torch.set_num_threads(1)
    start = time.perf_counter()
    rules = list(RULES.values())
    cells = measure(rules, progress=lambda line: print(line, file=sys.stderr, flush=True))
    text = as_json(RULES, cells, all_zeros(rules), false_alarms(rules))
    write(arguments.output, text)
    print(f"{arguments.output}: {len(cells)} cells in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
