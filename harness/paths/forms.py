"""The forms of a case, for FlexAttention: the block mask's tables laid out anew, the query as a
view that is taken in the compiled function, what the mask_mod captures, kernel_options.

``harness.script.forms`` states them again for scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from harness.case import DecodeCase
from harness.case.fields import Spec
from harness.case.forms import by_hand, made_inside
from harness.case.layouts import projection
from harness.inputs import Inputs
from harness.paths import masks

_MORE_COLUMNS = 3
# The blocks that a row of a table lists: partial ones, and full ones.
_Row = tuple[list[int], list[int]]
_Tables = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Views:
    """The views of what a function gets that are taken in it."""

    query: Callable[..., Tensor]
    key: Callable[[Tensor, int], Tensor]
    value: Callable[[Tensor, int], Tensor]
    heads: int

    def __call__(
        self, query: Tensor, matrix: Tensor | None, key: Tensor, value: Tensor, length: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        query = self.query(query, matrix, self.heads)
        key, value = self.key(key, query.size(0)), self.value(value, query.size(0))
        if length is not None:
            key, value = key[:, :, :length], value[:, :, :length]
        return query, key, value


@dataclass(frozen=True)
class Inside:
    """What a compiled function puts a block mask together from: four ``tables``, of which those of
    full blocks may be None, ``captured``, of which ``positions(captured)`` are the sequences'
    positions ``[B]``, or one for all, and a ``rule`` over absolute positions."""

    tables: tuple[Tensor | None, ...]
    captured: Tensor
    positions: Callable[[Tensor], Tensor]
    rule: masks.MaskMod
    block_size: tuple[int, int]
    lengths: tuple[int, int]
    convert: bool

    def block_mask(self) -> BlockMask:
        """The block mask; called in the compiled function."""
        tables, mod = self.tables, masks.placed(self.rule, self.positions(self.captured))
        if self.convert:
            tables = tuple(None if t is None else t[:, None].to(torch.int32) for t in tables)
        return _from(tables, self.block_size, mod, self.lengths)


def tables_of(mask: BlockMask) -> tuple[Tensor | None, ...]:
    """The four tables of a block mask: counts and indices of partial and of full blocks."""
    return (
        mask.kv_num_blocks,
        mask.kv_indices,
        mask.full_kv_num_blocks,
        mask.full_kv_indices,
    )


def kernel_options(case: DecodeCase) -> dict[str, Any] | None:
    """The kernel_options of a case, or None."""
    name, numbers = Spec.parse_one(case.options)
    if name == "partition":
        return {"PARTITION_SIZE": numbers[0]}
    if name == "tile":
        return {"BLOCK_M": numbers[0], "BLOCK_N": numbers[1]}
    return {"FORCE_USE_FLEX_ATTENTION": True} if name == "general" else None


def query_argument(inputs: Inputs) -> tuple[Tensor, Tensor | None, Callable[..., Tensor]]:
    """What a path gets for a query, the matrix that it is multiplied with, or None, and the view,
    ``(given, matrix, heads)``, that makes the query of them."""
    case, query = inputs.case, inputs.query
    if case.query_layout == "projected-inside":
        return projection(query, case.kv_heads), None, _part
    if case.query_layout == "tokens-inside":
        return query.transpose(1, 2).contiguous(), None, _part
    if case.query_layout == "product":
        width = case.heads * case.head_dim
        flat = query.transpose(1, 2).reshape(case.batch, case.q_len, width)
        return flat, torch.eye(width, dtype=query.dtype, device=query.device), _product
    return query, None, _as_it_is


def _as_it_is(given: Tensor, matrix: None, heads: int) -> Tensor:
    return given


def _part(given: Tensor, matrix: None, heads: int) -> Tensor:
    return given[:, :, :heads].transpose(1, 2)


def _product(given: Tensor, matrix: Tensor, heads: int) -> Tensor:
    return F.linear(given, matrix).unflatten(-1, (heads, -1)).transpose(1, 2)


def block_mask(inputs: Inputs, mask: BlockMask) -> BlockMask | Inside:
    """A block mask in the case's form, from one as its recipe makes it."""
    case = inputs.case
    if by_hand(case):
        mask = laid_out(inputs, mask)
    if not made_inside(case):
        return mask
    tables: tuple[Tensor | None, ...] = tables_of(mask)
    convert = case.tables == "inside"
    if convert:
        tables = tuple(None if t is None else t[:, 0].long() for t in tables)
    given, positions = _CAPTURED[case.capture]
    start = masks.starts(inputs)
    rule = masks.rule(inputs)
    return Inside(tables, given(start), positions, rule, case.block_size, mask.seq_lengths, convert)


# What is handed over of the positions, and how the compiled function makes them of it.
_CAPTURED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "positions": (lambda start: start, lambda given: given),
    "number": (lambda start: start[0].clone(), lambda given: given),
    "view": (lambda start: F.pad(start, (2, 0), value=-1), lambda given: given[2:]),
    "computed": (lambda start: start - 1, lambda given: given + 1),
}


def laid_out(inputs: Inputs, mask: BlockMask) -> BlockMask:
    """The block mask with its tables in the case's form; it shows the same slots."""
    case, columns = inputs.case, mask.kv_indices.size(-1)
    rows = _listed(inputs) if case.recipe != "kv-blocks" else _all_partial(mask)
    if case.table_size == "one" and rows:
        rows = [[_joined(together) for together in zip(*rows, strict=True)]]
    if case.tables.endswith("-expanded"):
        for together in zip(*rows, strict=True):
            _even(list(together), case.tables == "full-expanded", columns)
    if case.tables == "reversed":
        rows = [[(partial[::-1], full[::-1]) for partial, full in row] for row in rows]
    partial = _tables([[p for p, _ in row] for row in rows], columns, case)
    full: _Tables = None, None
    if case.recipe != "kv-blocks":
        full = _tables([[f for _, f in row] for row in rows], columns, case)
    if case.tables == "counts-expanded":
        partial = _expanded(partial)
    if case.tables == "full-expanded":
        full = _expanded(full)
    device = mask.kv_indices.device
    tables = [t if t is None or t.device == device else t.to(device) for t in (*partial, *full)]
    return _from(tables, mask.BLOCK_SIZE, mask.mask_mod, mask.seq_lengths)


def _from(
    tables: Sequence[Tensor | None],
    block_size: tuple[int, int],
    mod: masks.MaskMod,
    lengths: tuple[int, int],
) -> BlockMask:
    counts, indices, full_counts, full_indices = tables
    assert counts is not None and indices is not None
    return BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=block_size,
        mask_mod=mod,
        seq_lengths=lengths,
        compute_q_blocks=False,
    )


def _listed(inputs: Inputs) -> list[list[_Row]]:
    """The blocks that each row of queries sees in part, and those that it sees whole, as who writes
    tables by hand lists them: ``create_block_mask`` takes a block for partial where the cache or
    the queries end in it."""
    case = inputs.case
    grid = map(torch.arange, (case.batch, 1, case.q_len, case.cache_len))
    device = inputs.query.device
    b, h, q, kv = torch.meshgrid(*(n.to(device) for n in grid), indexing="ij")
    shown = masks.mask_mod(inputs)(b, h, q, kv)[:, 0].cpu()
    q_block, kv_block = case.block_size
    return [
        [
            _row(shown[one, start : start + q_block], kv_block)
            for start in range(0, case.q_len, q_block)
        ]
        for one in range(case.batch)
    ]


def _row(shown: Tensor, kv_block: int) -> _Row:
    blocks = list(enumerate(shown.split(kv_block, -1)))
    full = [n for n, block in blocks if block.all() and block.size(-1) == kv_block]
    return [n for n, block in blocks if block.any() and n not in full], full


def _all_partial(mask: BlockMask) -> list[list[_Row]]:
    return [[(blocks, []) for blocks in row] for row in mask.kv_indices[:, 0].tolist()]


def _joined(rows: tuple[_Row, ...]) -> _Row:
    """One row for all sequences: full are the blocks that are so for each of them."""
    full = set.intersection(*(set(f) for _, f in rows))
    listed = set().union(*({*p, *f} for p, f in rows))
    return sorted(listed - full), sorted(full)


def _even(rows: list[_Row], full: bool, columns: int) -> None:
    """Make all sequences list as many full, or partial, blocks: full blocks become partial ones,
    and where these are too few, blocks are listed of which the mask shows nothing."""
    if full:
        least = min(len(f) for _, f in rows)
        for partial, complete in rows:
            partial.extend(complete[least:])
            del complete[least:]
        return
    most = max(len(p) for p, _ in rows)
    for p, f in rows:
        while len(p) < most and f:
            p.append(f.pop())
        unlisted = (block for block in range(columns) if block not in p)
        while len(p) < most:
            p.append(next(unlisted))


def _tables(rows: list[list[list[int]]], columns: int, case: DecodeCase) -> _Tables:
    """The table of counts ``[B, heads, rows]`` and that of indices ``[B, heads, rows, columns]``.
    Entries that no count covers name the last block."""
    last, form = columns - 1, case.tables
    columns += _MORE_COLUMNS if form == "padded" else 0
    heads = case.heads if case.table_size == "heads" else 1
    counts = torch.tensor([[len(blocks) for blocks in row] for row in rows], dtype=torch.int32)
    indices = torch.tensor(
        [[blocks + [last] * (columns - len(blocks)) for blocks in row] for row in rows],
        dtype=torch.int32,
    )
    counts, indices = counts[:, None].repeat(1, heads, 1), indices[:, None].repeat(1, heads, 1, 1)
    if form == "sliced":
        counts = F.pad(counts, (0, 0, 0, 0, 1, 0))[1:]
        indices = F.pad(indices, (0, _MORE_COLUMNS, 0, 0, 0, 0, 1, 0))[1:, ..., :columns]
    return counts, indices


def _expanded(tables: _Tables) -> _Tables:
    """The tables with the counts of the first sequence, expanded over the batch."""
    counts, indices = tables
    assert counts is not None
    return counts[:1].clone().expand(counts.shape), indices
