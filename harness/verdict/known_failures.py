"""Known failures: cases in which released torch is wrong, each with a section of FINDINGS.md and a
script that shows it, ``fixtures/repro/<name>/script.py``.

Runs on drawn cases leave these cases out and say how many; ``repro`` runs them and names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.case import DecodeCase
from harness.case.fields import Spec
from harness.decoding.cpp_kernels import stays_in_bounds
from harness.paths import Path
from harness.paths.compile import why_not, within
from harness.verdict import Problem

# The exp of any smaller number is subnormal or 0 in float32.
LOG_TINY = math.log(torch.finfo(torch.float32).tiny)


Covers = Callable[[Path, Problem, str], bool]


@dataclass(frozen=True)
class KnownFailure:
    """A defect of torch, and ``covers(path, problem, device)``, whether it may show in a call;
    ``stops`` says that it keeps the call from being compiled."""

    name: str
    summary: str
    covers: Covers
    stops: bool = False


def _compiled_flex_on_cpu(path: Path, case: DecodeCase, device: str) -> bool:
    """Whether a failure of compiled flex_attention on CPU may show. It may not in a path that
    declares to avoid them, which is judged by that, nor where nothing can be compiled."""
    kind = torch.device(device).type
    compiles = case.mode != "eager" and case.cpp and kind == "cpu" and why_not(kind) is None
    return path.flex and not path.avoids_known_failures and compiles


def split_decode(case: DecodeCase) -> bool:
    """Whether compiled FlexAttention on CPU takes its split-KV decode kernel: static shapes, one
    query token, a KV block that divides a partition (of 128 slots, where the caller sets no other),
    and 512 slots, or two partitions, per sequence.

    Where a view is taken inside the compiled function, torch takes the number of query tokens, and
    of slots, from the buffer under the view.
    """
    slots, tokens = case.cache_len, case.q_len
    if case.views == "inside":
        slots = case.layout_kind.slots(case.cache_len, case.kv_heads)
    tokens = {
        "tokens-inside": case.heads,
        "projected-inside": case.heads + 2 * case.kv_heads,
    }.get(case.query_layout, tokens)
    static = case.mode != "eager" and case.dynamic_shapes is False
    option, numbers = Spec.parse_one(case.options)
    partition = numbers[0] if option == "partition" else 128
    if not static or tokens != 1 or partition % case.block_size[1]:
        return False
    return slots >= max(512, 2 * partition) * case.batch


def _compiled(shows: Callable[[Problem], bool]) -> Covers:
    """Whether a failure of compiled flex_attention on CPU may show, which ``shows`` on a problem;
    that is asked last, since it may take golden."""
    return lambda path, problem, device: (
        _compiled_flex_on_cpu(path, problem.case, device) and shows(problem)
    )


@_compiled
def _partition_max(problem: Problem) -> bool:
    if not split_decode(problem.case):
        return False
    highest = problem.golden.highest
    return bool((highest.isfinite() & (highest < LOG_TINY)).any())


@_compiled
def _all_idle(problem: Problem) -> bool:
    case = problem.case
    return case.batch > 0 and max(case.input_pos) < 0 and split_decode(case)


@_compiled
def _view_offset(problem: Problem) -> bool:
    case = problem.case
    offset = case.layout_kind.offset or case.value_layout_kind.offset
    return case.views == "inside" and offset


@_compiled
def _no_full_tables(problem: Problem) -> bool:
    return problem.case.recipe == "kv-blocks" and split_decode(problem.case)


@_compiled
def _cut_tile(problem: Problem) -> bool:
    case = problem.case
    with within(case)():
        return not stays_in_bounds(case.head_dim, case.block_size[1], case.cache_len)


@_compiled
def _table_strides(problem: Problem) -> bool:
    case = problem.case
    full = case.recipe != "kv-blocks" and case.tables in ("counts-expanded", "full-expanded")
    return full and case.batch > 1


@_compiled
def _computed_capture(problem: Problem) -> bool:
    return problem.case.capture == "computed"


@_compiled
def _linear_query(problem: Problem) -> bool:
    return problem.case.query_layout == "product"


@_compiled
def _chunk_in_split(problem: Problem) -> bool:
    return problem.case.q_len > 1 and split_decode(problem.case)


@_compiled
def _create_mask_padding(problem: Problem) -> bool:
    case = problem.case
    q_block, kv_block = case.block_size
    whole = case.q_len % q_block == case.cache_len % kv_block == 0 and not case.dynamic
    return case.recipe == "compiled" and not whole


def _empty_batch(path: Path, problem: Problem, device: str) -> bool:
    return path.flex and problem.case.batch == 0


KNOWN_FAILURES: tuple[KnownFailure, ...] = (
    KnownFailure(
        "flexcpu-split-partition-max",
        "split decode kernel: a partition with nothing to attend gets maximum 0 instead of -inf,"
        " so rows whose largest score is below about -88 come out as inf, NaN or 0",
        _partition_max,
    ),
    KnownFailure(
        "flexcpu-split-all-idle",
        "split decode kernel: with every sequence idle the output is never written; with a wide"
        " value the heap is corrupted",
        _all_idle,
    ),
    KnownFailure(
        "flexcpu-view-offset-dropped",
        "the storage offset of a view taken inside the compiled function is dropped",
        _view_offset,
    ),
    KnownFailure(
        "flexcpu-split-no-full-blocks",
        "split decode kernel: a BlockMask without full blocks does not compile",
        _no_full_tables,
        stops=True,
    ),
    KnownFailure(
        "flexcpu-cut-tile",
        "with vectors of 8 lanes (AVX2) and heads of 8 or 16, a tile of keys that is cut short is"
        " computed as a whole: keys behind the cache are read, the running maximum overwritten",
        _cut_tile,
    ),
    KnownFailure(
        "flexcpu-full-table-strides",
        "full_kv_num_blocks is read with the strides of kv_num_blocks; past its end where it alone"
        " is expanded",
        _table_strides,
    ),
    KnownFailure(
        "flexcpu-computed-capture",
        "a mask_mod that captures a tensor computed in the compiled function does not compile",
        _computed_capture,
        stops=True,
    ),
    KnownFailure(
        "flexcpu-linear-query",
        "a query that is a view of a matrix product does not compile",
        _linear_query,
        stops=True,
    ),
    KnownFailure(
        "flexcpu-split-kernel-for-chunk",
        "a chunk of one head, transposed in the compiled function, gets the split kernel, which"
        " writes one row",
        _chunk_in_split,
    ),
    KnownFailure(
        "flexcpu-create-mask-padding",
        "create_block_mask does not compile for a length that is no multiple of the block",
        _create_mask_padding,
        stops=True,
    ),
    KnownFailure(
        "flex-empty-batch",
        "batch 0 raises IndexError where a mask_mod captures positions",
        _empty_batch,
        stops=True,
    ),
)


def known_as(path: Path, problem: Problem, stopped: bool, device: str = "cpu") -> str:
    """The name of the known failure that a failing call may show, which was ``stopped`` from being
    compiled or gave wrong numbers; or ""."""
    covering = (k for k in KNOWN_FAILURES if k.stops is stopped)
    return next((k.name for k in covering if k.covers(path, problem, device)), "")


def known_failure(path: Path, problem: Problem, device: str = "cpu") -> KnownFailure | None:
    """The known failure that may show in this call, or None."""
    return next((k for k in KNOWN_FAILURES if k.covers(path, problem, device)), None)
