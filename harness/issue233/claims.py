"""The claims of the bug report gpt-fast#233: whether each is true, with the evidence."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from harness.case import DecodeCase
from harness.inputs import Inputs, make_inputs
from harness.oracle.error import Error
from harness.paths import PATHS, Path, Result
from harness.paths.calls import Call
from harness.paths.compile import Compiled
from harness.paths.masks import fresh_block_mask, mask_mod
from harness.support.progress import Progress
from harness.support.threads import one_thread
from harness.verdict import Finding, Judgement, Problem, Verdict, attempt, errors_of

GRAPH_STEPS = 10

FULL, REPORTED, SLICED = "full-cache", "sliced-as-reported", "sliced-offset"
UNMASKED, FIXED, SDPA = "full-cache-unmasked", "fixed", "sdpa-sliced"


@dataclass(frozen=True)
class Claim:
    """A claim of the report, whether it is true, and the evidence."""

    text: str
    verdict: str
    evidence: str


def claims(
    problem: Problem,
    by_path: dict[str, Judgement],
    device: str,
    progress: Progress,
) -> Iterator[Claim]:
    """Judge each claim of the report, given the judgements of all paths on its case."""
    case = problem.case
    full, unmasked = by_path[FULL], by_path[UNMASKED]
    assert full.error is not None
    reported = by_path[REPORTED]
    assert reported.output is not None and full.output is not None and reported.error is not None
    relative = (full.output - reported.output).abs().mean() / reported.output.abs().mean()
    yield Claim(
        "full cache gives 101 % relative error",
        "true of the number, false of the full cache" if full.verdict.passes else "true",
        f"{relative:.0%} here is the distance between the two sides. Against float64 the full"
        f" cache is off by {full.error.relative_l2:.2%}, the report's slice by"
        f" {reported.error.relative_l2:.2%}",
    )
    yield _uninitialised(problem, full, unmasked, device)
    progress("time against position")
    yield wasted(problem, device)
    progress("positions to the end of the cache")
    yield _longer(case, device)
    sliced = by_path[SLICED]
    fault = "right" if reported.verdict.passes else "wrong"
    yield Claim(
        "slicing the cache fixes it",
        "false" if full.verdict.passes else "undecided",
        f"the slice as reported is {fault}; the slice with the offset is {sliced.verdict}, and so"
        f" is the full cache ({full.verdict}): the offset in the mask is the fix, not the slice",
    )
    progress("graphs over positions")
    yield _shapes(case, device)
    progress("time of a step on each path")
    yield _fixed_path(case, device)


def _uninitialised(problem: Problem, full: Judgement, unmasked: Judgement, device: str) -> Claim:
    assert unmasked.error is not None
    poisoned = [f for f in full.findings if f.verdict is Verdict.LEAK]
    nan = Problem.of(problem.case.replace(tail="nan"))
    got = attempt(PATHS[FULL], nan.inputs.to(device))
    leaks = isinstance(got, Result) and not got.output.isfinite().all()
    return Claim(
        "KVCache.update returns uninitialized positions",
        "true of the buffer, harmless behind the mask" if not poisoned else "true",
        "the whole buffer comes back, zeros past the newest slot; "
        + (
            poisoned[0].evidence
            if poisoned
            else "filled with 1e4 instead, they change no bit of the output"
        )
        + f". Without any mask the error would be {unmasked.error.relative_l2:.0%}."
        + (
            " A NaN there does come through (0 * NaN), so a cache must start finite"
            if leaks
            else ""
        ),
    )


def median_seconds(call: Callable[[], object], device: str, repeats: int = 7) -> float:
    """The median wall time of a call in seconds, after one call to warm up.

    One thread is used, since threads that wait for each other on a busy machine would measure the
    scheduler."""
    on_gpu = torch.device(device).type == "cuda"
    with one_thread():
        call()
        times = []
        for _ in range(repeats):
            if on_gpu:
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            call()
            if on_gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _attention_seconds(path: Path, case: DecodeCase, device: str) -> float:
    call = path.bound(make_inputs(case).to(device))
    with torch.no_grad():
        return median_seconds(call, device)


def _interpreted(case: DecodeCase, device: str) -> bool:
    return case.kernels == "triton" and torch.device(device).type == "cpu"


def _times(case: DecodeCase, device: str) -> str:
    if _interpreted(case, device):
        return "no times, since an interpreter's say nothing of a GPU's"
    last = case.replace(input_pos=(case.cache_len - 1,))
    here, end = (_attention_seconds(PATHS[FULL], c, device) for c in (case, last))
    return (
        f"one {case.mode} call takes {here * 1e3:.2f} ms at position {case.input_pos[0]} and"
        f" {end * 1e3:.2f} ms at position {case.cache_len - 1}"
    )


def wasted(problem: Problem, device: str) -> Claim:
    """The claim that computation is wasted on slots that no query attends, judged by times and, for
    compiled kernels, by whether they read blocks that the block table does not list."""
    case = problem.case
    inputs = problem.inputs
    mask = fresh_block_mask(inputs, mask_mod(inputs), case.cache_len)
    listed = int(mask.kv_num_blocks.sum())
    if mask.full_kv_num_blocks is not None:
        listed += int(mask.full_kv_num_blocks.sum())
    blocks = -(-case.cache_len // case.block_size[1])
    times = _times(case, device)
    table = f"the block table lists {listed} of {blocks} blocks"
    if case.mode == "eager":
        return Claim(
            "full cache wastes computation on invalid positions",
            "true in eager; compiled: not run (--compile)",
            f"{times}: eager computes every score, then masks. Compiled kernels visit only listed"
            f" blocks, and {table}",
        )
    unread = ignores_nan_from(listed * case.block_size[1], inputs.to(device))
    return Claim(
        "full cache wastes computation on invalid positions",
        "false when compiled" if unread else "true",
        f"{times}: {table}, and NaN in all others "
        + ("changes no bit: the kernel does not read them" if unread else "comes through"),
    )


def ignores_nan_from(slot: int, inputs: Inputs) -> bool:
    """Whether the output of ``full-cache`` keeps every bit when all keys and values from ``slot``
    on are NaN."""
    poisoned = inputs.clone()
    for cache in (poisoned.key_cache, poisoned.value_cache):
        cache[:, :, slot:] = torch.nan
    return torch.equal(PATHS[FULL](inputs).output, PATHS[FULL](poisoned).output)


def _eager(case: DecodeCase) -> DecodeCase:
    return case.replace(mode="eager", kernels="cpp", dynamic=False)


def sweep_positions(case: DecodeCase) -> list[int]:
    """Some positions from the start to the end of the cache, block edges among them."""
    block, last = case.block_size[1], case.cache_len - 1
    wanted = {0, 1, block - 1, block, case.input_pos[0], last // 2, last - 1, last}
    return sorted(p for p in wanted if 0 <= p <= last)


def _error_of(name: str, problem: Problem, device: str) -> Error | None:
    path = PATHS[name]
    result = attempt(path, problem.inputs.to(device))
    if isinstance(result, Finding):
        return None
    return errors_of(path, problem, result)["output"]


def _longer(case: DecodeCase, device: str) -> Claim:
    full, reported = {}, {}
    for position in sweep_positions(case):
        # These calls are eager, since the claim is about positions; the compiled kernels of both
        # sides are judged elsewhere.
        problem = Problem.of(_eager(case).replace(input_pos=(position,)))
        full[position] = _error_of(FULL, problem, device)
        reported[position] = _error_of(REPORTED, problem, device)
    worst = max((e.utilisation for e in full.values() if e is not None), default=float("inf"))
    off = [p for p, e in reported.items() if e is None or e.utilisation > 1]
    sizes = ", ".join(f"{e.relative_l2:.0%} at {p}" for p, e in reported.items() if e is not None)
    return Claim(
        "severe at longer contexts",
        "false of the full cache" if worst <= 1 else "true",
        f"at positions {', '.join(map(str, full))} the full cache stays within"
        f" {worst:.2f} of the rounding budget; the report's slice is wrong at {len(off)} of"
        f" {len(reported)} ({sizes})",
    )


def graph_counts(calls: Iterable[Call], *, dynamic: bool) -> list[int]:
    """The number of graphs after each of these calls of one function, which torch traces again
    whenever its guards fail.

    torch.compile's eager backend has the guards of any other backend and compiles nothing."""
    calls = list(calls)
    counts = []
    compiled: Compiled | None = None
    for call in calls:
        if compiled is None:
            compiled = Compiled(
                call.function, dynamic=dynamic, backend="eager", recompile_limit=len(calls)
            )
        with torch.no_grad():
            compiled(**(call.arguments | dict(with_logsumexp=False)))
        counts.append(compiled.graphs)
    return counts


def _graphs(name: str, cases: list[DecodeCase], device: str, *, dynamic: bool) -> int:
    calls = (PATHS[name].prepare(make_inputs(case).to(device)) for case in cases)
    return max(graph_counts(calls, dynamic=dynamic), default=0)


def _shapes(case: DecodeCase, device: str) -> Claim:
    first = min(case.input_pos[0], case.cache_len - GRAPH_STEPS)
    small = _eager(case).replace(heads=1)
    steps = [small.replace(input_pos=(first + i,)) for i in range(GRAPH_STEPS) if first + i >= 0]
    static = _graphs(SLICED, steps, device, dynamic=False)
    full = _graphs(FULL, steps, device, dynamic=False)
    dynamic = _graphs(SLICED, steps, device, dynamic=True)
    fixed = _graphs(FIXED, steps, device, dynamic=False)
    return Claim(
        "slicing changes shapes every step",
        "true" if static == len(steps) > full else "false",
        f"over {len(steps)} steps the slice compiles {static} graphs with static shapes"
        f" ({dynamic} with dynamic ones), the full cache {full}, its position in a tensor that"
        f" mask_mod captures, and the fixed path {fixed}, block table and all; torch stops"
        " compiling after 8 graphs of one function",
    )


def _fixed_path(case: DecodeCase, device: str) -> Claim:
    text = "slicing is the right path, and slow"
    if case.mode == "eager":
        return Claim(text, "not run (--compile)", "a step is worth timing only when compiled")
    if _interpreted(case, device):
        return Claim(text, "not run", "an interpreter's times say nothing of a GPU's")
    last = case.replace(input_pos=(case.cache_len - 1,))
    here, end = (
        [_attention_seconds(PATHS[name], c, device) * 1e3 for name in (FIXED, SDPA, FULL)]
        for c in (case, last)
    )
    return Claim(
        text,
        "there is a path without slices" if here[0] < end[0] else "undecided",
        f"fixed path {here[0]:.2f} ms at position {case.input_pos[0]} and {end[0]:.2f} ms at"
        f" {case.cache_len - 1}, one graph, block table included; sliced SDPA {here[1]:.2f} and"
        f" {end[1]:.2f} ms, a new shape each step; full cache {here[2]:.2f} and {end[2]:.2f} ms"
        " without the making of its block mask",
    )
