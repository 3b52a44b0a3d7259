"""How many verdicts the harness gives in a second of a processor."""

from __future__ import annotations

import time
from dataclasses import dataclass

from harness.case import DecodeCase
from harness.paths import PATHS
from harness.paths.masks import shared_block_masks
from harness.strategies.paths import decode_data, sampled_cases
from harness.verdict import Problem, judge, judgeable
from harness.verdict.known_failures import known_failure

ROWS = (
    ("fixed", "S=64,pos=0,H=2,D=16,mode=compiled"),
    ("full-cache", "S=64,pos=0,H=2,D=16,mode=compiled"),
    ("full-cache", "S=1024,pos=0,H=2,D=64,mode=compiled"),
    ("full-cache", "S=64,pos=0,H=2,D=16"),
)
_CASES = 60


@dataclass(frozen=True)
class Speed:
    """``verdicts`` a second of CPU on a path and a geometry; of that second, the share that the
    path itself ran, three times each, and that the making of the case took, with golden."""

    path: str
    geometry: str
    verdicts: float
    running: float
    making: float


def speed(path: str, geometry: str) -> Speed:
    """Measure one row, compiled before."""
    run = PATHS[path]
    drawn = sampled_cases(_CASES, 0, decode_data(DecodeCase.from_text(geometry)))
    problems = [p for p in judgeable(drawn) if not known_failure(run, p)]
    for problem in problems[:2]:
        judge(run, problem)
    start = time.process_time()
    made = [Problem.of(problem.case) for problem in problems]
    making = time.process_time() - start
    start = time.process_time()
    for problem in made:
        judge(run, problem)
    judging = time.process_time() - start
    start = time.process_time()
    for problem in made:
        with shared_block_masks():
            for _ in range(3):
                run(problem.inputs)
    running = time.process_time() - start
    total = making + judging
    return Speed(path, geometry, len(made) / total, running / total, making / total)
