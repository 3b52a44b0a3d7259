"""Every rule on every planted fault: how often it catches the fault where the fault shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.faults import FAULTS, Fault, FaultKind
from harness.faults.model import Attention
from harness.faults.mutants import MODEL, Scope, mutant, rows, scopes
from tests.rivals.rule import SEEDS, Rule, Trial
from tests.support.sound import SOUND

# Float64 rounding in a fault that changes the order of sums alone.
_ROUNDING = 1e-12

OUTPUT_FAULTS: dict[str, Fault] = {
    name: fault
    for name, fault in FAULTS.items()
    # Their tests have inputs of their own, none with a quantised cache.
    if fault.kind is FaultKind.OUTPUT and not fault.quantised
}


@dataclass
class Cell:
    """One rule on one fault, planted in the rows of ``scope``.

    ``total`` counts the trials in which the fault changes anything in those rows, in float64;
    where there is none the rule's inputs cannot show it: ``applies`` is False, and ``total`` counts
    all trials, none caught.
    """

    rule: str
    fault: str
    scope: str
    caught: int = 0
    total: int = 0
    applies: bool = False


def measure(
    rules: Iterable[Rule],
    faults: Iterable[Fault] = tuple(OUTPUT_FAULTS.values()),
    seeds: tuple[int, ...] = SEEDS,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Cell]:
    """All cells, rule by rule in the order of the faults."""
    cells: list[Cell] = []
    faults = list(faults)
    for rule in rules:
        progress(f"{rule.name} on {len(faults)} faults")
        of_rule = {(f.name, s): Cell(rule.name, f.name, s) for f in faults for s in scopes(f)}
        trials = 0
        for trial in rule.trials(seeds):
            trials += 1
            for name, scope, output in planted(trial, faults):
                cell = of_rule[name, scope]
                cell.applies = True
                cell.total += 1
                cell.caught += not rule.accepts(output, trial)
        for cell in of_rule.values():
            cell.total = cell.total or trials
        cells += of_rule.values()
    return cells


def planted(trial: Trial, faults: Iterable[Fault]) -> Iterator[tuple[str, Scope, Tensor]]:
    """The outputs of the faults that change something in this trial, by name and scope.

    Rows that are never written hold what the allocator gives, here as in those projects: the one
    output that differs from run to run.
    """
    exact = Attention.of(trial.inputs, torch.float64)
    sound = exact.run()[0]
    for fault in faults:
        if fault.path is not None:
            yield fault.name, Scope.ALL, mutant(fault)(trial.inputs).output
            continue
        broken = fault.change(exact)
        if broken is None:
            continue
        # Not <=: NaN is a difference.
        changed = ~((broken.run()[0] - sound).abs() <= _ROUNDING * sound.abs().max())
        if not changed.any():
            continue
        wrong = mutant(fault)(trial.inputs).output
        for scope in scopes(fault):
            where = rows(scope, exact)
            if (changed & where).any():
                yield fault.name, scope, torch.where(where, wrong, trial.sound)


def false_alarms(rules: Iterable[Rule], seeds: tuple[int, ...] = SEEDS) -> list[Cell]:
    """How often each rule rejects the sound model, and the sound implementations whose arithmetic
    is no narrower than the inputs; ``fault`` is their name."""
    paths = [MODEL, *(path for path in SOUND.values() if path.precision.operand is None)]
    cells = []
    for rule in rules:
        of_rule = [Cell(rule.name, path.name, Scope.ALL, applies=True) for path in paths]
        for trial in rule.trials(seeds):
            for cell, path in zip(of_rule, paths, strict=True):
                cell.total += 1
                cell.caught += not rule.accepts(path(trial.inputs).output, trial)
        cells += of_rule
    return cells


def all_zeros(rules: Iterable[Rule], seeds: tuple[int, ...] = SEEDS) -> list[Cell]:
    """An output of zeros, the crudest fault there is, under the name ``all-zeros``."""
    cells = []
    for rule in rules:
        cell = Cell(rule.name, "all-zeros", Scope.ALL, applies=True)
        for trial in rule.trials(seeds):
            cell.total += 1
            cell.caught += not rule.accepts(torch.zeros_like(trial.sound), trial)
        cells.append(cell)
    return cells
