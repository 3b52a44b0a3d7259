"""The kill matrix: which check catches each planted fault, after how many drawn examples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness import contract
from harness.case import DecodeCase, InvalidCase
from harness.faults import FAULTS, Fault, Kind
from harness.mutants import MODEL, Scope, mutant, scopes
from harness.paths import PATHS, Path
from harness.strategies import fit
from harness.verdict import Problem, judge

GOAL = 25

Progress = Callable[[str], None]


@dataclass
class Cell:
    """One mutant in one dtype. ``killed_by`` is the check or verdict that caught it, None while it
    lives; ``examples`` drawn and ``seconds`` spent until then."""

    fault: str
    number: int
    kind: Kind
    scope: Scope
    dtype: str
    killed_by: str | None = None
    examples: int = 0
    seconds: float = 0.0


def _problems(cases: Iterable[DecodeCase], dtype: str) -> Iterator[Problem]:
    for case in cases:
        try:
            yield Problem.of(fit(case, MODEL, dtype=dtype))
        except InvalidCase:
            continue


def sound_verdicts(cases: Sequence[DecodeCase], dtype: str) -> Iterator[tuple[str, DecodeCase]]:
    """Cases on which the dense model without a fault is not OK: there should be none."""
    for problem in _problems(cases, dtype):
        judgement = judge(MODEL, problem)
        if not judgement.verdict.passes:
            yield f"{judgement.verdict}: {judgement.findings[0].evidence}", problem.case


def kill_matrix(
    faults: Sequence[Fault], dtypes: Sequence[str], cases: Sequence[DecodeCase], progress: Progress
) -> list[Cell]:
    """Run every mutant on the drawn cases in their order until a check catches it; contract faults
    against the contract, with one example each."""
    cells = []
    for dtype in dtypes:
        alive: list[tuple[Cell, Path]] = []
        for fault in faults:
            for scope in scopes(fault):
                cell = Cell(fault.name, fault.number, fault.kind, scope, dtype)
                cells.append(cell)
                if fault.kind is Kind.CONTRACT:
                    _against_contract(cell, mutant(fault))
                else:
                    alive.append((cell, mutant(fault, scope)))
        for number, problem in enumerate(_problems(cases, dtype), 1):
            if not alive:
                break
            progress(f"{dtype}, example {number}: {len(alive)} mutants alive")
            alive = [(cell, path) for cell, path in alive if not _kill(cell, path, problem)]
    return cells


def _kill(cell: Cell, path: Path, problem: Problem) -> bool:
    start = time.perf_counter()
    judgement = judge(path, problem)
    cell.seconds += time.perf_counter() - start
    cell.examples += 1
    if not judgement.verdict.passes:
        cell.killed_by = judgement.verdict
    return cell.killed_by is not None


def _against_contract(cell: Cell, path: Path) -> None:
    start = time.perf_counter()
    found = contract.broken(path, case=contract.CASE.replace(dtype=cell.dtype))
    cell.seconds = time.perf_counter() - start
    cell.examples = 1
    cell.killed_by = next(iter(found), None)


def contract_of_sound_paths() -> dict[str, str]:
    """What the sound paths break of the contract, as text by path: there should be none."""
    found = {}
    for path in PATHS.values():
        if not path.exhibit and path.unsupported(contract.CASE, "cpu") is None:
            for check, finding in contract.broken(path).items():
                found[path.name] = f"{check}: {finding.evidence}"
    return found


def median_examples(cells: Iterable[Cell]) -> float:
    """Examples until output faults were caught, at the median; inf for one that lives."""
    counts = [c.examples if c.killed_by else float("inf") for c in cells if c.kind is Kind.OUTPUT]
    return statistics.median(counts) if counts else 0.0


def all_faults() -> list[Fault]:
    """Every fault model, by number."""
    return list(FAULTS.values())
