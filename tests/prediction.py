"""What Triton's interpreter predicts of a GPU's kernels, beside what a device does.

Run as ``python -m tests.prediction --device cuda``: exit code 0 where each verdict is the predicted
one, 1 where one is not, 2 where there is no such device, or nothing to interpret with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.case import DecodeCase
from harness.interpreter.gpu import missing
from harness.paths import PATHS
from harness.strategies.geometries import POOL
from harness.strategies.paths import decode_data, sampled_cases
from harness.support.files import write_atomically
from harness.support.progress import progress_to_stderr
from harness.verdict import Problem, judge, judgeable
from tests.support.interpreting import Interpreting

PATHS_COMPARED = ("full-cache", "fixed", "fixed-packed")


def cases(each: int) -> Iterator[tuple[str, DecodeCase]]:
    """Each path with so many cases of each geometry of the pool that it takes."""
    for geometry in POOL:
        drawn = sampled_cases(8 * each, str(geometry), decode_data(geometry))
        problems = list(judgeable(drawn))
        for path in PATHS_COMPARED:
            taken = [p.case for p in problems if PATHS[path].refuses(p.case) is None]
            yield from ((path, case) for case in taken[-each:])


def main() -> int:
    """Compare, print a line for each disagreement and the number of agreements."""
    parser = argparse.ArgumentParser(prog="python -m tests.prediction")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--each", type=int, default=2, help="cases of a path and geometry")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device != "cpu" and not torch.cuda.is_available():
        print("not run: torch sees no CUDA device")
        return 2
    if reason := missing():
        print(f"not run: {reason}")
        return 2
    progress, interpreting = progress_to_stderr(), Interpreting()
    rows: list[dict[str, Any]] = []
    for path, case in cases(arguments.each):
        progress(f"{len(rows)} compared: {path} {case}")
        if min(case.head_dim, case.value_dim) < 16:
            continue
        predicted = interpreting.judge(path, case.replace(kernels="triton"))
        ran = judge(PATHS[path], Problem.of(case), arguments.device)
        row = {"path": path, "case": str(case), "kernels": predicted["kernels"]}
        row |= {"predicted": predicted["verdict"], "device": str(ran.verdict)}
        row |= {"evidence": [finding.evidence for finding in ran.findings]}
        rows.append(row)
    interpreting.close()
    other = [row for row in rows if row["predicted"] != row["device"]]
    for row in other:
        print(f"{row['path']} {row['case']}: {row['predicted']} predicted, {row['device']}")
    print(f"{len(rows) - len(other)} of {len(rows)} verdicts as predicted")
    if arguments.json:
        write_atomically(arguments.json, json.dumps(rows, indent=1) + "\n")
    return int(bool(other))


if __name__ == "__main__":
    sys.exit(main())
