"""Proof that a run of the gate can fail: faults that it must find, planted in what it judges."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import DTYPES, DecodeCase
from harness.faults import FAULTS
from harness.faults.kill_matrix import kill_matrix
from harness.faults.mutants import Scope
from harness.gate.item import Item, Paths
from harness.paths import PATHS
from harness.strategies.paths import sampled_cases
from harness.verdict import Verdict

COMPILED = "S=1024,pos=700,H=4,Hkv=2,mode=compiled"
# A path that is known to be wrong, compiled, and faults in the dense model.
WRONG_PATH = "full-cache-unmasked"
PLANTED = (
    WRONG_PATH,
    "no-query-offset",
    "offset-one-high",
    "newest-block-dropped",
    "scale-one-percent-off",
)
_EXAMPLES = 100
_FOUND = (Verdict.WRONG, Verdict.LEAK, Verdict.NONFINITE)


def proofs(planted: str, paths: Paths, seed: int, kernels: str) -> Iterator[Item]:
    """Items of one of ``PLANTED``: WRONG where this run does not see what is wrong."""
    if planted == WRONG_PATH:
        yield _compiled(paths, kernels)
        return
    cases = sampled_cases(_EXAMPLES, seed)
    scopes = (Scope.ALL, Scope.HEAD)
    for cell in kill_matrix([FAULTS[planted]], DTYPES, cases, lambda text: None, scopes):
        name = f"{cell.fault} planted in {cell.scope} rows, {cell.dtype}"
        if cell.killed_by:
            yield Item(name, evidence=f"{cell.killed_by} after {cell.examples} examples")
        else:
            missed = f"not caught in {cell.examples} examples: this run cannot see it"
            yield Item(name, Verdict.WRONG, missed)


def _compiled(paths: Paths, kernels: str) -> Item:
    case = DecodeCase.from_text(COMPILED).replace(kernels=kernels)
    name = f"{WRONG_PATH} compiled"
    if reason := PATHS[WRONG_PATH].unsupported(case, paths.device):
        return Item(name, not_run=reason)
    found = paths.judge(WRONG_PATH, case, explain=False)
    if found.verdict is Verdict.UNSUPPORTED:
        return Item(name, not_run=found.not_run)
    if found.verdict in _FOUND:
        return Item(name, evidence=f"{found.verdict}, as it should be")
    return Item(name, Verdict.WRONG, f"{found.verdict}: this run cannot see it")
