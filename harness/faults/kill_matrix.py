"""The kill matrix: which check catches each planted fault, after how many drawn examples."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch

from harness.case import DecodeCase
from harness.case.quantised import QUANTISED
from harness.faults import FAULTS, Fault, FaultKind
from harness.faults.mutants import MODEL, Scope, mutant, scopes
from harness.isolation.campaign import gather
from harness.paths import PATHS, Path
from harness.strategies.paths import fitted, sampled_cases
from harness.support.progress import Progress
from harness.verdict import Problem, contract, judge

SOUND_EXAMPLES = 100


@dataclass
class Cell:
    """One mutant in one dtype, and what it took to catch it.

    ``killed_by`` is the check or verdict that caught the mutant, None while it is not caught;
    ``examples`` cases were drawn and ``seconds`` spent until then."""

    fault: str
    number: int
    kind: FaultKind
    scope: Scope
    dtype: str
    killed_by: str | None = None
    examples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Matrix:
    """All cells, and the false alarms: what failed of sound paths on the same cases and checks."""

    cells: list[Cell]
    max_examples: int
    seconds: float
    sound_verdicts: int
    false_alarms: list[str]

    @property
    def holds(self) -> bool:
        """Whether every mutant was caught and no sound path accused."""
        return all(c.killed_by for c in self.cells) and not self.false_alarms

    @property
    def median_examples(self) -> float:
        """The median number of examples until a fault of the output was caught; a mutant that was
        not caught counts with all its examples."""
        counts = [c.examples for c in self.cells if c.kind is FaultKind.OUTPUT]
        return statistics.median(counts) if counts else 0.0


def measure_power(
    faults: Sequence[Fault],
    dtypes: Sequence[str],
    max_examples: int,
    seed: int,
    progress: Progress,
    executor: Executor | None = None,
    jobs: int = 1,
) -> Matrix:
    """The kill matrix on drawn cases, and the false alarms on the first of these cases; in this
    process or, ``jobs`` pieces at a time, by an executor. The cells are the same."""
    start = time.monotonic()
    # With tensors this tiny, threads that wait for each other would cost more than they help.
    torch.set_num_threads(1)
    if executor is None:
        cells = kill_matrix(faults, dtypes, _drawn(max_examples, seed), progress)
        sound: list[tuple[list[str], int]] = []
        for of, *given in _sound(dtypes, max_examples, seed):
            progress(f"sound paths, {len(sound)} parts done")
            sound.append(of(*given))
    else:
        names = [fault.name for fault in faults]
        # Every so many-th, so that the hard ones are spread; a piece makes each problem anew.
        pieces = [
            (names[n::jobs], dtype, max_examples, seed) for n in range(jobs) for dtype in dtypes
        ]
        work: list[tuple[Any, ...]] = [(cells_of, *piece) for piece in pieces if piece[0]]
        work += (of_sound := _sound(dtypes, max_examples, seed))
        found = gather(
            executor,
            _called,
            work,
            at_once=jobs,
            told=lambda done: progress(f"{done} of {len(work)} pieces"),
        )
        some, sound = found[: -len(of_sound)], found[-len(of_sound) :]
        cells = _in_order(itertools.chain.from_iterable(some), faults, dtypes)
    alarms = [alarm for told, _ in sound for alarm in told]
    count = sum(count for _, count in sound)
    return Matrix(cells, max_examples, time.monotonic() - start, count, alarms)


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _sound(dtypes: Sequence[str], max_examples: int, seed: int) -> list[tuple[Any, ...]]:
    """What is to be called about sound paths, each with its arguments: it returns false alarms and
    how many verdicts there were."""
    return [(broken_contracts,), *((alarms_of_model, d, max_examples, seed) for d in dtypes)]


def alarms_of_model(dtype: str, max_examples: int, seed: int) -> tuple[list[str], int]:
    """False alarms about the model in one dtype, on the first of the cases that ``measure_power``
    draws, and how many verdicts there were."""
    alarms, count = list[str](), 0
    for problem in fitted(_drawn(max_examples, seed)[:SOUND_EXAMPLES], MODEL, dtype=dtype):
        judgement = judge(MODEL, problem)
        count += 1
        if not judgement.verdict.passes:
            alarms.append(f"{MODEL.name} is {judgement.verdicts} on {problem.case}")
    return alarms, count


def broken_contracts() -> tuple[list[str], int]:
    """The contracts that sound paths break, and how many paths were asked."""
    alarms, count = list[str](), 0
    for path in PATHS.values():
        if not path.known_wrong and path.unsupported(path.contract_case, "cpu") is None:
            count += 1
            broken = contract.broken(path)
            alarms += [f"{path.name} breaks {c}: {f.evidence}" for c, f in broken.items()]
    return alarms, count


@functools.lru_cache(maxsize=1)
def _drawn(max_examples: int, seed: int) -> tuple[DecodeCase, ...]:
    """The cases that all pieces of work in one process are about."""
    return tuple(sampled_cases(max_examples, seed))


def cells_of(names: Sequence[str], dtype: str, max_examples: int, seed: int) -> list[Cell]:
    """The cells of some faults in one dtype, on the cases that ``measure_power`` draws."""
    faults = [FAULTS[name] for name in names]
    return kill_matrix(faults, [dtype], _drawn(max_examples, seed), lambda text: None)


def kill_matrix(
    faults: Sequence[Fault],
    dtypes: Sequence[str],
    cases: Sequence[DecodeCase],
    progress: Progress,
    only: Sequence[Scope] = tuple(Scope),
) -> list[Cell]:
    """Run every mutant on the cases, in their order, until a check catches it.

    Mutants of contract faults run the checks of ``harness.verdict.contract`` instead, which counts
    as one example."""
    cells = []
    chosen = [fault for fault in faults if fault.quantised], [f for f in faults if not f.quantised]
    for own, some in zip((list(stored(cases)), cases), chosen, strict=True):
        cells += _cells(some, dtypes, own, progress, only)
    return _in_order(cells, faults, dtypes)


def _in_order(cells: Iterable[Cell], faults: Sequence[Fault], dtypes: Sequence[str]) -> list[Cell]:
    """The cells in the order of the faults, whatever cases they need and whoever ran them."""
    order = {fault.name: place for place, fault in enumerate(faults)}
    return sorted(cells, key=lambda cell: (dtypes.index(cell.dtype), order[cell.fault]))


def stored(cases: Sequence[DecodeCase]) -> Iterator[DecodeCase]:
    """The cases with quantised caches, each kind in turn, and what such a cache cannot have left
    out."""
    kinds = itertools.cycle(QUANTISED.values())
    for case in cases:
        kind = next(kinds)
        plain = {"layout": "contiguous", "value_layout": "same"}
        plain |= {} if case.probe == "uniform" else {"probe": "none"}
        spoilt = not case.tail_kind.finite and kind.feature != "fp8"
        yield case.replace(cache=kind.name, **plain, **({"tail": "poison"} if spoilt else {}))


def _cells(
    faults: Sequence[Fault],
    dtypes: Sequence[str],
    cases: Sequence[DecodeCase],
    progress: Progress,
    only: Sequence[Scope],
) -> list[Cell]:
    cells = []
    for dtype in dtypes if faults else ():
        alive: list[tuple[Cell, Path]] = []
        for fault in (f for f in faults if dtype in f.dtypes):
            for scope in (s for s in scopes(fault) if s in only):
                cell = Cell(fault.name, fault.number, fault.kind, scope, dtype)
                cells.append(cell)
                if fault.kind is FaultKind.CONTRACT:
                    _against_contract(cell, mutant(fault))
                else:
                    alive.append((cell, mutant(fault, scope)))
        for number, problem in enumerate(fitted(cases, MODEL, dtype=dtype), 1):
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
    found = contract.broken(path, case=path.contract_case.replace(dtype=cell.dtype))
    cell.seconds = time.perf_counter() - start
    cell.examples = 1
    cell.killed_by = next(iter(found), None)
