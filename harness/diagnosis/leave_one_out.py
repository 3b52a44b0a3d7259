"""Leave one out: is a fault named rightly, and is it left unnamed where no model of it is known?

A fault is planted, and diagnosed twice: with all suspects, and without itself and the faults that
are the same where it is planted. Any name in the second diagnosis is a false one.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from harness.case import DecodeCase
from harness.diagnosis.diagnosis import diagnose
from harness.diagnosis.observation import Observer
from harness.faults import FAULTS, Fault
from harness.faults.kill_matrix import stored
from harness.faults.mutants import MODEL, Scope, mutant
from harness.isolation.pool import processes
from harness.paths import Path
from harness.strategies.paths import fit, fitted, sampled_cases
from harness.support.progress import Progress
from harness.verdict import Problem, judge

EXAMPLES = 2000
FURTHER = 200


class Naming(enum.StrEnum):
    """What a diagnosis says of a planted fault: its own name alone, its name or that of an equal
    fault among others, none, or others' names only. ``UNSEEN`` is one that no drawn case shows."""

    RIGHT = "right"
    CLASS = "class"
    SILENT = "silent"
    FALSE = "false"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class Trial:
    """One mutant's two diagnoses: ``known`` with all suspects, and ``left_out`` without the fault;
    ``names`` and ``false_names`` are what they named."""

    fault: str
    scope: Scope
    dtype: str
    known: Naming
    left_out: Naming
    names: tuple[str, ...] = ()
    false_names: tuple[str, ...] = ()


Mutant = tuple[str, Scope, str]


def trials(dtypes: Sequence[str]) -> list[Mutant]:
    """All mutants that can be diagnosed by name: fault, scope and dtype."""
    return [
        (fault.name, scope, dtype)
        for dtype in dtypes
        for fault in FAULTS.values()
        if fault.path is None and dtype in fault.dtypes
        for scope in Scope
    ]


class LeaveOneOut:
    """Diagnoses mutants on cases that are drawn once, with ``seed`` and the seed after it."""

    def __init__(self, seed: int = 0, examples: int = EXAMPLES) -> None:
        self._drawn = sampled_cases(examples, seed)
        self._further = sampled_cases(FURTHER, seed + 1)

    def tried(self, name: str, scope: Scope, dtype: str) -> Trial:
        """Plant one of ``trials`` and diagnose it with and without the model of it."""
        fault = FAULTS[name]
        path = mutant(fault, scope)
        problem = self._failure(path, fault, dtype)
        if problem is None:
            return Trial(fault.name, scope, dtype, Naming.UNSEEN, Naming.UNSEEN)

        observer, others = Observer(path, "cpu"), self._others(fault, dtype)

        def named(faults: Iterable[Fault]) -> tuple[str, ...]:
            return diagnose(path, problem, "cpu", others, faults, observer, names_alone=True).names

        def alike(name: str) -> bool:
            return self.planted_alike(fault.name, name, scope, dtype)

        names = named(FAULTS.values())
        if names == (fault.name,):
            known = Naming.RIGHT
        elif fault.name in names or any(map(alike, names)):
            known = Naming.CLASS
        else:
            known = Naming.FALSE if names else Naming.SILENT
        out = {fault.name}
        # What is named in the fault's place may be the same fault, which has to be left out too.
        while false := named(f for f in FAULTS.values() if f.name not in out):
            if not (equal := {name for name in false if alike(name)}):
                break
            out |= equal
        left_out = Naming.FALSE if false else Naming.SILENT
        return Trial(fault.name, scope, dtype, known, left_out, names, false)

    def planted_alike(self, one: str, other: str, scope: Scope, dtype: str) -> bool:
        """Whether two faults are one and the same where they are planted: the sequence after the
        last is the first."""
        a, b = (mutant(FAULTS[name], scope) for name in (one, other))
        return all(
            torch.equal(a(problem.inputs).output, b(problem.inputs).output)
            for problem in fitted(self._further, MODEL, dtype=dtype)
            if problem.case.tail_kind.finite
        )

    def _failure(self, path: Path, fault: Fault, dtype: str) -> Problem | None:
        """The first drawn case on which a path fails."""
        drawn: Iterable[DecodeCase] = stored(self._drawn) if fault.quantised else self._drawn
        problems = fitted(drawn, MODEL, dtype=dtype)
        return next((p for p in problems if not judge(path, p).verdict.passes), None)

    def _others(self, fault: Fault, dtype: str) -> list[DecodeCase]:
        others: Iterable[DecodeCase] = stored(self._further) if fault.quantised else self._further
        return [fit(case, MODEL, dtype=dtype) for case in others]


def measured(
    mutants: Sequence[Mutant],
    progress: Progress,
    *,
    seed: int = 0,
    examples: int = EXAMPLES,
    jobs: int | None = None,
) -> Iterator[Trial]:
    """The trials of the mutants, in their order, in this process or in ``jobs`` others; the same
    whatever their number."""
    if jobs is None or jobs == 1:
        own = LeaveOneOut(seed, examples)
        yield from _told(mutants, itertools.starmap(own.tried, mutants), progress)
        return
    with processes(jobs, _begin, seed, examples) as pool:
        yield from _told(mutants, pool.map(_in_worker, mutants), progress)


def _told(mutants: Sequence[Mutant], found: Iterable[Trial], progress: Progress) -> Iterator[Trial]:
    for number, (trial, planted) in enumerate(zip(found, mutants, strict=True), 1):
        progress(f"{number} of {len(mutants)}: {', '.join(planted)}")
        yield trial


_WORKER: list[LeaveOneOut] = []


def _begin(seed: int, examples: int) -> None:
    _WORKER.append(LeaveOneOut(seed, examples))


def _in_worker(planted: Mutant) -> Trial:
    return _WORKER[0].tried(*planted)
