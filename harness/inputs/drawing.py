"""How the tensors of a case are drawn: on the CPU, so that every device sees the same bits, and in
pieces, so that little memory is needed beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.fields import Spec
from harness.case.layouts import Layout, projected
from harness.case.tails import POISON, Fill, TailKind
from harness.case.visible import tail, written
from harness.inputs.pieces import Piece, normal_pieces
from harness.inputs.quantised import quantised
from harness.inputs.tensors import Inputs, TailDraws

# Chosen slots get a chosen score by coordinate 0 of query and key, the lever: the query holds
# sqrt(LEVER / scale) there, so that query * key * scale moves a score by up to hundreds while both
# factors stay well inside float16.
LEVER = 64.0
LOW = -100.0
NEEDLE = 40.0


def make_inputs(case: DecodeCase) -> Inputs:
    """The tensors of ``case``, on the CPU.

    The drawn numbers depend on the seed and the shapes alone: a change of positions, tail or layout
    changes none of them, and the dtype only rounds them."""
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    query = normal(case.batch, case.heads, case.q_len, case.head_dim)
    _shape_query(case, query)
    key_buffer = _buffer(case, case.layout_kind, case.head_dim)
    value_buffer = _buffer(case, case.value_layout_kind, case.value_dim)
    _draw_caches(case, key_buffer, value_buffer, generator)
    parameters = {
        kind.parameter.name: kind.parameter.make(case.heads, case.scores[kind.name], normal)
        for kind in case.score_kinds
        if kind.parameter is not None
    }
    query = query.to(getattr(torch, case.dtype))
    inputs = Inputs(
        case=case,
        query=projected(query, case.kv_heads) if case.query_layout == "projected" else query,
        key_buffer=key_buffer,
        value_buffer=value_buffer,
        input_pos=torch.tensor(case.input_pos, dtype=torch.int64),
        parameters=parameters,
        tail_draws=TailDraws(generator),
    )
    _fill_tail(inputs, None)
    _plant_needle(inputs)
    return quantised(inputs, case.quantised, free_slots(case)) if case.quantised else inputs


def with_tail(inputs: Inputs, tail: str) -> Inputs:
    """Inputs with another tail, in the memory of ``inputs``, which are overwritten: the bits that
    ``make_inputs`` gives for the case with that tail. They must have been drawn."""
    before = inputs.case.tail_kind
    inputs = dataclasses.replace(inputs, case=inputs.case.replace(tail=tail))
    _fill_tail(inputs, before)
    _plant_needle(inputs)
    return inputs


def redraw(inputs: Inputs) -> None:
    """Overwrite drawn inputs, wherever a path wrote into them, with the bits that they had."""
    case = inputs.case
    generator = torch.Generator().manual_seed(case.seed)
    query = torch.randn(inputs.query.shape, generator=generator)
    _shape_query(case, query)
    inputs.query.copy_(query)
    inputs.input_pos.copy_(torch.tensor(case.input_pos))
    for buffer in (inputs.key_buffer, inputs.value_buffer):
        buffer.fill_(torch.nan)  # What is not the cache holds NaN in every layout.
    _draw_caches(case, inputs.key_buffer, inputs.value_buffer, generator)
    _fill_tail(inputs, None)
    _plant_needle(inputs)


def free_slots(case: DecodeCase) -> Tensor:
    """The slots whose content is free, bool ``[B, S]``: the tail, less slots that another sequence
    attends where sequences share storage."""
    unused = tail(case)
    return unused.all(dim=0).expand_as(unused) if case.layout_kind.shared else unused


Pieces = Iterable[Piece]


def _buffer(case: DecodeCase, layout: Layout, width: int) -> Tensor:
    shape = (case.batch, case.kv_heads, case.cache_len, width)
    like = torch.empty((), dtype=getattr(torch, case.dtype)).expand(shape)
    return layout.allocate(like)


def _draw_caches(case: DecodeCase, key: Tensor, value: Tensor, generator: torch.Generator) -> None:
    """Write drawn numbers into the caches in two buffers."""
    caches = _stored(case, key, value)
    for cache, shaped in zip(caches, (_shaped_keys, _shaped_values), strict=True):
        shape = (case.batch, case.kv_heads, case.cache_len, cache.size(-1))
        for (b, h, slots), numbers in shaped(case, normal_pieces(shape, generator)):
            # Where sequences share storage, it holds the first one's numbers.
            if b.start < cache.size(0):
                cache[b, h, slots] = numbers[: cache.size(0)]


def _stored(case: DecodeCase, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The caches in two buffers, of one sequence where all share its storage."""
    batch = 1 if case.layout_kind.shared else case.batch
    return case.layout_kind.view(key, batch), case.value_layout_kind.view(value, batch)


def _lever(case: DecodeCase) -> float:
    return (LEVER / case.softmax_scale) ** 0.5


def _shape_query(case: DecodeCase, query: Tensor) -> None:
    if case.logits == "x5":
        query *= 5
    elif case.logits == "low":
        query[..., 0] = _lever(case)
    if case.probe in ("uniform", "integers"):
        query.zero_()


def _shaped_keys(case: DecodeCase, pieces: Pieces) -> Iterator[Piece]:
    for (b, h, slots), key in pieces:
        if case.logits == "huge" and slots.start == 0:
            key[:, :, 0] *= 30
        elif case.logits == "equal":
            if slots.start == 0:
                first = key[:, :, :1].clone()
            key.copy_(first.expand_as(key))
        elif case.logits == "low":
            key[..., 0] = LOW / (case.softmax_scale * _lever(case))
        yield (b, h, slots), key


def _shaped_values(case: DecodeCase, pieces: Pieces) -> Iterator[Piece]:
    for part, value in pieces:
        yield part, (value * 4).round().clamp(-8, 8) if case.probe == "integers" else value


def _plant_needle(inputs: Inputs) -> None:
    """Give one slot nearly all the weight and a value of its own.

    The slot's score becomes ``base + NEEDLE``. Coordinate 0 of every other visible slot adds
    ``base`` to its score: 0, or ``LOW`` under ``logits=low``.
    """
    case = inputs.case
    name, arguments = Spec.parse_one(case.probe)
    if name != "needle":
        return
    base = LOW if case.logits == "low" else 0.0
    step = 1 / (case.softmax_scale * _lever(case))
    inputs.query[..., 0] = _lever(case)
    key, value = _stored(case, inputs.key_buffer, inputs.value_buffer)
    visible = tail(case)[: key.size(0), None].logical_not().to(key.device)
    key[..., 0].masked_fill_(visible, base * step)
    slot = arguments[0]
    key[:, :, slot] = 0
    key[:, :, slot, 0] = (base + NEEDLE) * step
    value[:, :, slot] = torch.arange(1, case.value_dim + 1).remainder(7).add(3).to(value)


def _fill_tail(inputs: Inputs, before: TailKind | None) -> None:
    """Overwrite the free slots with the case's tail; ``before`` is the one that they hold."""
    case, draws, fill = inputs.case, inputs.tail_draws, inputs.case.tail_kind
    assert draws is not None
    unused = free_slots(case)
    if not unused.any():
        return
    key, value = _stored(case, inputs.key_buffer, inputs.value_buffer)
    if before is None or fill.key != before.key:
        generator = draws.keys.clone_state()
        _overwrite(key, unused, fill.key, generator)
        if fill.key == "normal":
            draws.after_keys = generator
    if before is None or fill.value != before.value:
        # Keys are drawn first, where both are normal numbers.
        start = draws.after_keys if fill.key == "normal" else draws.keys
        assert start is not None
        _overwrite(value, unused, fill.value, start.clone_state())
    if not fill.finite:
        # What was written once is finite, for example what a window has left behind.
        once = written(case)
        left = unused & (once.any(dim=0) if case.layout_kind.shared else once)
        for cache in (key, value):
            _overwrite(cache, left, POISON, draws.keys)


def _overwrite(cache: Tensor, unused: Tensor, fill: Fill, generator: torch.Generator) -> None:
    """Overwrite the slots ``unused`` ``[B, S]`` of a cache."""
    unused = unused[: cache.size(0), None, :, None].to(cache.device)
    if fill != "normal":
        number = torch.finfo(cache.dtype).max if fill == "max" else fill
        cache.masked_fill_(unused, number)
        return
    batch, heads, slots, width = cache.shape
    for (b, h, part), numbers in normal_pieces((batch, heads, slots, width), generator):
        where = unused[b, :, part]
        if where.any():
            kept = cache[b, h, part]
            kept.copy_(torch.where(where, numbers.to(kept), kept))
