"""The tensors of a loop: those of its first case, changed by each step before its call."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.loop import Loop, Step
from harness.case.visible import tail, written
from harness.inputs.drawing import free_slots, make_inputs
from harness.inputs.tensors import Inputs, store

# A long run returns to where it began after so many calls, so that calls repeat bit for bit.
PERIOD = 8
# What is left in memory that a tensor has moved from; a position there is 0.
LEFT = 3.0
_SEEDS = 2**32
_TRIES = 16
_NOTHING = torch.empty(0)


@dataclass
class Cache:
    """The tensors of one cache as they are now; ``junk``, bool ``[B, S]``, are the slots that hold
    no token, since no query has attended them."""

    inputs: Inputs
    junk: Tensor

    @property
    def case(self) -> DecodeCase:
        """The call on the tensors as they are now; numbers that were written since they were drawn
        are not those of its seed."""
        return self.inputs.case


@dataclass(frozen=True)
class Stage:
    """The tensors are ready for a call: its ``number``, from 1; the ``step`` before it, None for
    the first; which call of its step it is, ``index`` from 0; the number of an earlier call of the
    step with the same bits, ``same``, if there is one."""

    number: int
    step: Step | None = None
    index: int = 0
    same: int | None = None


class LoopInputs:
    """The tensors of a loop. ``inputs`` are those of the next call; who keeps a reference to them
    beyond that call keeps their memory from being freed.

    Numbers are drawn from a generator of the case's seed + 1, in the order of the steps.
    """

    def __init__(self, loop: Loop, device: str = "cpu") -> None:
        self._loop, self._device = loop, device
        seed = (loop.case.seed + 1) % _SEEDS
        self._generator = torch.Generator().manual_seed(seed)
        self._caches = [self._made(loop.case)]
        self._made_so_far = 1
        self._left: list[Inputs] = []

    @property
    def inputs(self) -> Inputs:
        """The tensors of the cache that the next call gets."""
        return self._caches[-1].inputs

    def stages(self) -> Iterator[Stage]:
        """Change the tensors for one call after the other."""
        number = 1
        yield Stage(number)
        for step in self._loop.steps:
            long = step.word in ("run", "fresh")
            for index, same in self._run(step) if long else self._change(step):
                number += 1
                yield Stage(number, step, index, None if same is None else number - index + same)

    def _made(self, case: DecodeCase) -> Cache:
        return Cache(make_inputs(case).to(self._device), free_slots(case))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def _change(self, step: Step) -> Iterator[tuple[int, None]]:
        cache = self._caches[-1]
        match step.word:
            case "next":
                self._to(
                    lambda p, case: p + case.q_len if p + 2 * case.q_len <= case.cache_len else 0
                )
                self._write_token(new_query=True)
            case "back":
                self._to(lambda p, case: max(0, p - step.arguments[0]))
                self._write_token(new_query=True)
            case "jump":
                self._to(lambda p, case: min(step.arguments[0], case.cache_len - case.q_len))
            case "query":
                cache.inputs.query.copy_(self._normal(*cache.inputs.query.shape))
            case "replace":
                self._replace()
            case "free":
                self._free()
            case "move":
                self._move()
            case "other":
                case = self._loop.other_case(*step.arguments)
                seed = (case.seed + self._made_so_far) % _SEEDS
                self._made_so_far += 1
                self._caches.append(self._made(case.replace(seed=seed)))
                self._write_token(new_query=True)
            case "swap":
                self._caches[-2:] = self._caches[-2:][::-1]
        yield 0, None

    def _to(self, moved: Callable[[int, DecodeCase], int]) -> None:
        """Move the positions of sequences that are not idle, in the same tensor. Slots that are
        attended from there, or that a window has left, get tokens if they have none."""
        cache = self._caches[-1]
        case = cache.case
        positions = tuple(p if p < 0 else moved(p, case) for p in case.input_pos)
        cache.inputs.input_pos.copy_(torch.tensor(positions))
        cache.inputs = dataclasses.replace(cache.inputs, case=case.replace(input_pos=positions))
        self._fill()

    def _fill(self) -> None:
        cache = self._caches[-1]
        fill = cache.junk & (written(cache.case) | ~tail(cache.case))
        if fill.any():
            mask = fill[:, None, :, None].to(self._device)
            for tensor in (cache.inputs.key_cache, cache.inputs.value_cache):
                fresh = self._normal(*tensor.shape).to(tensor)
                tensor.copy_(torch.where(mask, fresh, tensor))
            cache.junk &= ~fill

    def _newest_keys(self, query: Tensor) -> Tensor:
        """Keys ``[B, Hkv, Q, D]`` on the CPU of the query's own tokens, which give them most of the
        weight of the first head of each group: a score of log(S) + 2."""
        case = self._caches[-1].case
        lead = query.cpu().float()[:, :: case.heads // case.kv_heads]
        score = (math.log(case.cache_len) + 2) / case.softmax_scale
        return lead * (score / lead.square().sum(-1, keepdim=True))

    def _write_token(self, *, new_query: bool) -> None:
        """Write key and value of the query's tokens into the cache, after a query was drawn if it
        is to be new."""
        cache = self._caches[-1]
        case, old = cache.case, cache.inputs.query
        if new_query:
            cache.inputs = dataclasses.replace(cache.inputs, query=self._normal(*old.shape).to(old))
        keys = self._newest_keys(cache.inputs.query)
        values = self._normal(case.batch, case.kv_heads, case.q_len, case.value_dim)
        self._write(keys, values)

    def _write(self, keys: Tensor, values: Tensor) -> None:
        inputs = self.inputs
        for b, position in enumerate(inputs.case.input_pos):
            if position >= 0:
                slots = slice(position, position + inputs.case.q_len)
                inputs.key_cache[b, :, slots] = keys[b].to(inputs.key_cache)
                inputs.value_cache[b, :, slots] = values[b].to(inputs.value_cache)

    def _tokens(self) -> tuple[Tensor, Tensor]:
        """Other contents of the caches, on the CPU; slots without a token keep what they hold."""
        cache = self._caches[-1]
        junk = cache.junk[:, None, :, None]
        key, value = (
            torch.where(junk, old.cpu(), self._normal(*old.shape).to(old.dtype))
            for old in (cache.inputs.key_cache, cache.inputs.value_cache)
        )
        return key, value

    def _replace(self) -> None:
        key, value = self._tokens()
        self.inputs.key_cache.copy_(key)
        self.inputs.value_cache.copy_(value)
        self._write_token(new_query=False)

    def _free(self) -> None:
        key, value = self._tokens()
        cache = self._caches[-1]
        case, inputs = cache.case, cache.inputs
        addresses = inputs.key_buffer.data_ptr(), inputs.value_buffer.data_ptr()
        del inputs
        # Allocators hand out what was freed last, so the value goes first for the key to get its
        # old place.
        cache.inputs = dataclasses.replace(cache.inputs, value_buffer=_NOTHING)
        cache.inputs = dataclasses.replace(cache.inputs, key_buffer=_NOTHING)
        new_key = _at(addresses[0], key, case.layout, self._device)
        new_value = _at(addresses[1], value, case.value_layout_kind.name, self._device)
        cache.inputs = dataclasses.replace(cache.inputs, key_buffer=new_key, value_buffer=new_value)
        self._write_token(new_query=False)

    def _move(self) -> None:
        cache = self._caches[-1]
        old = cache.inputs
        cache.inputs = old.clone()
        for tensor in old.tensors.values():
            tensor.fill_(LEFT if tensor.is_floating_point() else 0)
        # What is kept is not allocated again, so a reader of old memory sees these numbers.
        self._left.append(old)

    def _run(self, step: Step) -> Iterator[tuple[int, int | None]]:
        """Calls that advance, and begin anew after some, as the index and the index of the first
        call with the same bits."""
        cache = self._caches[-1]
        case = cache.case
        period = min(PERIOD, case.cache_len // case.q_len)
        last = case.cache_len - period * case.q_len
        starts = [p if p < 0 else min(p, last) for p in case.input_pos]
        cases = [
            case.replace(input_pos=tuple(p if p < 0 else p + k * case.q_len for p in starts))
            for k in range(period)
        ]
        for visited in cases:
            cache.inputs = dataclasses.replace(cache.inputs, case=visited)
            self._fill()
        written = []
        for visited in cases:
            cache.inputs = dataclasses.replace(cache.inputs, case=visited)
            cache.inputs.input_pos.copy_(torch.tensor(visited.input_pos))
            self._write_token(new_query=True)
            written.append(cache.inputs.clone())
        for index in range(step.arguments[0]):
            phase = index % period
            now = written[phase]
            if step.word == "fresh":
                # Nothing of the last call may be left when the tensors of this one are allocated.
                cache.inputs = dataclasses.replace(
                    cache.inputs,
                    query=_NOTHING,
                    key_buffer=_NOTHING,
                    value_buffer=_NOTHING,
                    input_pos=_NOTHING,
                )
                cache.inputs = now.clone()
            else:
                cache.inputs.key_buffer.copy_(now.key_buffer)
                cache.inputs.value_buffer.copy_(now.value_buffer)
                cache.inputs.input_pos.copy_(now.input_pos)
                cache.inputs = dataclasses.replace(
                    cache.inputs, case=now.case, query=now.query.clone()
                )
            yield index, phase if index >= period else None


def _at(address: int, content: Tensor, layout: str, device: str) -> Tensor:
    """A buffer with this content, at this address if the allocator gives it within a few tries, or
    else anywhere."""
    misses = []
    for _ in range(_TRIES):
        buffer = store(content.to(device), layout)
        if buffer.data_ptr() == address:
            return buffer
        misses.append(buffer)
    return misses[0]
