"""Measurement of the numbers that the figures show."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from harness.case import DTYPES, DecodeCase
from harness.case.precision import Precision
from harness.figures.results import Results
from harness.figures.values import (
    Attended,
    ErrorCurve,
    Errors,
    Figure,
    GraphCurve,
    Graphs,
    Share,
    Side,
    TimeCurve,
    Times,
    Utilisation,
    history,
    matrix,
)
from harness.inputs import Inputs, make_inputs
from harness.issue233.answer import REPORT_CASE
from harness.issue233.claims import (
    FIXED,
    FULL,
    REPORTED,
    SDPA,
    SLICED,
    graph_counts,
    median_seconds,
)
from harness.oracle.budget import Budget, budget
from harness.oracle.error import Error
from harness.paths import PATHS, Path
from harness.paths.calls import Call, flex_call
from harness.paths.compile import why_not
from harness.paths.masks import MaskMod, fresh_block_mask
from harness.support.progress import Progress
from harness.verdict import Finding, Problem, attempt, compare

SDPA_FULL = "sdpa-full"


@dataclass(frozen=True)
class Plan:
    """What to measure; the defaults take about a minute.

    ``case`` has one sequence and one query token, at the position for which attention weights are
    shown. ``steps`` is the number of decode steps over which graphs are counted.
    """

    case: DecodeCase = REPORT_CASE
    error_positions: tuple[int, ...] = (0, 1, 3, 7, 15, 31, 63, 99, 128, 255, 511, 1023, 2047)
    cache_len: int = 512
    time_positions: tuple[int, ...] = (0, 127, 255, 511, 767, 1023, 1279, 1535, 1791, 2047)
    rounds: int = 7
    repeats: int = 5
    steps: int = 16


def compute(plan: Plan, recorded: Results, device: str, progress: Progress) -> tuple[Figure, ...]:
    """Measure the numbers of every figure, in the order of the page."""
    return (
        attended(plan, device, progress),
        errors(plan, device, progress),
        utilisation(plan, recorded, device, progress),
        matrix(recorded),
        times(plan, device, progress),
        graphs(plan, device, progress),
        history(recorded),
    )


def attended(plan: Plan, device: str, progress: Progress) -> Attended:
    """The attention weights of both sides of the report."""
    progress("attention weights of both sides of the report")
    position = plan.case.input_pos[0]
    return Attended(
        str(plan.case),
        position,
        Side(REPORTED, 0, attention_weights(REPORTED, plan.case, device)),
        Side(FULL, position, attention_weights(FULL, plan.case, device)),
    )


def attention_weights(path: str, case: DecodeCase, device: str) -> tuple[tuple[float, ...], ...]:
    """The weights that a path's only query gives to the first slots, ``[heads][slots]``.

    They are read off the path's output: where slot j holds the unit vector e_j as its value, the
    output is the attention weights.
    """
    slots = min(case.cache_len, (case.input_pos[0] // 64 + 1) * 64)
    case = case.replace(value_dim=slots)
    inputs = make_inputs(case)
    inputs.value_cache.zero_()
    inputs.value_cache[:, :, :slots] = torch.eye(slots)
    output = PATHS[path](inputs.to(device)).output[0, :, 0]
    return tuple(tuple(row) for row in output.float().cpu().tolist())


class Yardstick:
    """A problem with its budgets, each computed once for all paths of the same precision."""

    def __init__(self, problem: Problem, device: str) -> None:
        self._problem, self._device = problem, device
        self._bounds: dict[Precision, Budget] = {}

    def bound(self, precision: Precision) -> Budget:
        """The budget of the problem for this precision."""
        if precision not in self._bounds:
            self._bounds[precision] = budget(
                self._problem.inputs,
                self._problem.golden,
                precision,
                tensor_cores=torch.device(self._device).type == "cuda",
            )
        return self._bounds[precision]

    def error(self, path: Path) -> Error | None:
        """The error of a path's output; None where the path gives no output."""
        result = attempt(path, self._problem.inputs.clone().to(self._device))
        if isinstance(result, Finding):
            return None
        return compare(result, self._problem.golden, self.bound(path.precision))["output"]


def errors(plan: Plan, device: str, progress: Progress) -> Errors:
    """The error of every path at several positions in the cache."""
    largest: dict[str, list[float | None]] = {name: [] for name in PATHS}
    within: dict[str, list[bool]] = {name: [] for name in PATHS}
    band = []
    refused = {n for n, p in PATHS.items() if p.unsupported(plan.case, device)}
    for position in plan.error_positions:
        progress(f"errors at position {position}")
        yardstick = Yardstick(Problem.of(plan.case.replace(input_pos=(position,))), device)
        for name, path in PATHS.items():
            error = yardstick.error(path)
            largest[name].append(error.max_abs if error else None)
            within[name].append(error is not None and error.utilisation <= 1)
        band.append(yardstick.bound(Precision()).output.max().item())
    curves = tuple(
        ErrorCurve(name, PATHS[name].known_wrong, tuple(largest[name]), tuple(within[name]))
        for name in PATHS
        if name not in refused
    )
    return Errors(str(plan.case), plan.error_positions, tuple(band), curves)


def utilisation_cases(plan: Plan, dtype: str) -> list[DecodeCase]:
    """A few cases on which paths use much of the budget; with GQA, so that every path takes any."""
    base = DecodeCase(
        cache_len=plan.cache_len, input_pos=(0,), heads=8, kv_heads=2, head_dim=64, dtype=dtype
    )
    return [
        base.replace(input_pos=(position,), logits=logits)
        for position in (min(99, plan.cache_len - 1), plan.cache_len - 1)
        for logits in ("normal", "x5", "equal")
    ]


def utilisation(plan: Plan, recorded: Results, device: str, progress: Progress) -> Utilisation:
    """The largest utilisation of each path that is not known wrong, and the ledger's record."""
    ledger, version = recorded.ledger, torch.__version__.partition("+")[0]
    shares = []
    for dtype in DTYPES:
        progress(f"share of the budget in {dtype}")
        cases = utilisation_cases(plan, dtype)
        yardsticks = [Yardstick(Problem.of(case), device) for case in cases]
        for name, path in PATHS.items():
            if path.known_wrong:
                continue
            used = [e.utilisation for y in yardsticks if (e := y.error(path)) is not None]
            record = ledger.worst(name, dtype, version) if ledger else None
            shares.append(Share(name, dtype, max(used, default=None), record))
    entries = [e for e in ledger.entries.values() if e.torch == version] if ledger else []
    where = "; ".join(sorted({f"torch {e.torch} on {e.hardware}" for e in entries}))
    return Utilisation(
        tuple(str(c) for c in utilisation_cases(plan, DTYPES[0])),
        tuple(shares),
        (where or f"no entry of torch {version}") if ledger else None,
        ledger.margins.worst if ledger else None,
    )


def times(plan: Plan, device: str, progress: Progress) -> Times:
    """Step times of the fixed path and of SDPA, sliced and over the full cache."""
    reason = why_not(torch.device(device).type)
    mode = "eager" if reason else "compiled"
    paths = {FIXED: mode, SDPA: "eager", SDPA_FULL: "eager"}
    full = make_inputs(plan.case.replace(input_pos=(plan.case.cache_len - 1,))).to(device)
    seconds: dict[tuple[str, int], list[float]] = {}
    # Each round goes over all calls, so that other work of the machine disturbs all of them alike.
    for i in range(plan.rounds):
        progress(f"step times, round {i + 1} of {plan.rounds}")
        for name, position in itertools.product(paths, plan.time_positions):
            case = plan.case.replace(input_pos=(position,), mode=paths[name])
            inputs = dataclasses.replace(
                full, case=case, input_pos=torch.full_like(full.input_pos, position)
            )
            call = PATHS[name].bound(inputs)
            with torch.no_grad():
                median = median_seconds(call, device, plan.repeats)
            seconds.setdefault((name, position), []).append(median)
    how = {FIXED: mode, SDPA: "library kernel", SDPA_FULL: "library kernel"}

    def curve(name: str) -> TimeCurve:
        found = (_quartiles(seconds[name, p]) for p in plan.time_positions)
        lower, middle, upper = zip(*found, strict=True)
        return TimeCurve(name, how[name], middle, lower, upper)

    curves = tuple(map(curve, paths))
    note = f"Not compiled here: {reason}." if reason else ""
    positions, rounds = plan.time_positions, plan.rounds
    return Times(str(plan.case), device, positions, curves, note, rounds, plan.repeats)


def _quartiles(seconds: list[float]) -> tuple[float, ...]:
    """The quartiles in milliseconds, of one value three times that value."""
    several = seconds if len(seconds) > 1 else seconds * 2
    return tuple(q * 1e3 for q in statistics.quantiles(several, n=4, method="inclusive"))


def graphs(plan: Plan, device: str, progress: Progress) -> Graphs:
    """The number of graphs after each step, for several ways to tell the mask the position."""
    first = plan.case.input_pos[0]
    small = plan.case.replace(heads=1)
    inputs = [
        make_inputs(small.replace(input_pos=(first + i,))).to(device) for i in range(plan.steps)
    ]

    def of(prepare: Callable[[Inputs], Call]) -> Iterator[Call]:
        return (prepare(i) for i in inputs)

    ways = {
        "position a Python int": (with_int_position, False),
        "sliced cache (static)": (PATHS[SLICED].prepare, False),
        "sliced cache (dynamic)": (PATHS[SLICED].prepare, True),
        "position in a tensor": (PATHS[FULL].prepare, False),
        "fixed path": (PATHS[FIXED].prepare, False),
    }
    curves = []
    for name, (prepare, dynamic) in ways.items():
        progress(f"graphs: {name}")
        curves.append(GraphCurve(name, tuple(graph_counts(of(prepare), dynamic=dynamic))))
    return Graphs(tuple(curves), torch._dynamo.config.recompile_limit)


def with_int_position(inputs: Inputs) -> Call:
    """A call over the full cache with a mask_mod that captures the position as a Python int."""
    mod = _int_causal(inputs.case.input_pos[0])
    return flex_call(inputs, fresh_block_mask(inputs, mod, inputs.case.cache_len))


def _int_causal(position: int) -> MaskMod:
    return lambda b, h, q, kv: kv <= position + q
