"""What a path promises beside right numbers: one graph for all positions, no state between calls.

Each check runs a few small calls in one process. Graphs are counted with torch.compile's eager
backend, which has the guards of any other backend and compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from harness.case import DecodeCase
from harness.inputs import make_inputs
from harness.paths import Path, Result
from harness.paths.compile import Compiled
from harness.verdict import Finding, Problem, Verdict, attempt, beyond_budget, errors_of

POSITIONS = (20, 21, 15, 16, 47, 0)
LENGTHS = (1, 16, 100, 33)


def graphs(path: Path, cases: Sequence[DecodeCase], device: str, *, dynamic: bool = False) -> int:
    """The number of graphs to which a path's function is traced over these cases."""
    compiled: Compiled | None = None
    for case in cases:
        call = path.prepare(make_inputs(case).to(device))
        if compiled is None:
            compiled = Compiled(
                call.function, dynamic=dynamic, backend="eager", recompile_limit=len(cases)
            )
        # Compiled FlexAttention on CPU cannot return the logsumexp, which does not matter here.
        without = {"with_logsumexp": False} if "with_logsumexp" in call.arguments else {}
        with torch.no_grad():
            compiled(**(call.arguments | without))
    return compiled.graphs if compiled else 0


def _one_graph(path: Path, case: DecodeCase, device: str) -> Iterator[Finding]:
    if not path.static:
        return
    cases = [case.replace(input_pos=(p,) * case.batch) for p in POSITIONS]
    count = graphs(path, cases, device)
    if count != 1:
        evidence = f"{count} graphs for {len(cases)} positions of one geometry, should be 1"
        yield Finding(Verdict.ERROR, evidence)


def _in_turn(path: Path, cases: Sequence[DecodeCase], what: str, device: str) -> Iterator[Finding]:
    for case in cases:
        problem = Problem.of(case)
        result = attempt(path, problem.inputs.to(device))
        if isinstance(result, Finding):
            yield result
            return
        if found := beyond_budget(errors_of(path, problem, result)):
            yield Finding(found[0].verdict, f"{what}, at {case}: {found[0].evidence}")
            return


def _positions_in_turn(path: Path, case: DecodeCase, device: str) -> Iterator[Finding]:
    cases = [case.replace(input_pos=(p,) * case.batch) for p in POSITIONS]
    yield from _in_turn(path, cases, f"positions {POSITIONS} in turn", device)


def _lengths_in_turn(path: Path, case: DecodeCase, device: str) -> Iterator[Finding]:
    cases = [case.replace(cache_len=n, input_pos=(n - 1,) * case.batch) for n in LENGTHS]
    yield from _in_turn(path, cases, f"cache lengths {LENGTHS} in turn", device)


def _same_call_twice(path: Path, case: DecodeCase, device: str) -> Iterator[Finding]:
    call = path.bound(make_inputs(case).to(device))
    with torch.no_grad():
        first, second = (
            Result(*result) if isinstance(result, tuple) else Result(result)
            for result in (call(), call())
        )
    if not torch.equal(first.output, second.output):
        evidence = "the same prepared call, run twice, gives two results"
        yield Finding(Verdict.NONDETERMINISTIC, evidence)


_PROMISES: dict[str, Callable[[Path, DecodeCase, str], Iterator[Finding]]] = {
    "one graph for all positions": _one_graph,
    "positions in turn": _positions_in_turn,
    "cache lengths in turn": _lengths_in_turn,
    "the same call twice": _same_call_twice,
}
PROMISES = tuple(_PROMISES)


def broken(path: Path, device: str = "cpu", case: DecodeCase | None = None) -> dict[str, Finding]:
    """The promises that a path breaks, each with a finding; empty where it keeps them all.

    Args:
        case: the case to check them on, by default the path's contract case.
    """
    case = case or path.contract_case
    found = {}
    for name, check in _PROMISES.items():
        findings = list(check(path, case, device))
        if findings:
            found[name] = findings[0]
    return found
