"""The fixed path's block table and attention: which slots count, exactly, in one graph."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_mask, flex_attention

from harness.decoding.attention import decode_attention, decode_block_mask, offset_score_mod
from harness.decoding.kv_cache import KVCache
from tests.support import ROOT


@pytest.fixture(autouse=True)
def _one_thread_without_grad() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with torch.no_grad():
        yield


def compiled(function: Callable[..., Any], dynamic: bool = False, **options: Any) -> Any:
    return torch.compile(function, fullgraph=True, dynamic=dynamic, **options)


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def visible(
    input_pos: list[int],
    q_len: int,
    cache_len: int,
    window: int | None = None,
    sinks: int = 0,
    prefix: int | list[int] = 0,
) -> Tensor:
    """Bool [B, Q, S], by the definition, one slot at a time."""
    prefixes = prefix if isinstance(prefix, list) else [prefix] * len(input_pos)
    out = torch.zeros(len(input_pos), q_len, cache_len, dtype=torch.bool)
    for b, i, j in itertools.product(range(len(input_pos)), range(q_len), range(cache_len)):
        t = input_pos[b] + i
        causal = j <= t and (window is None or j > t - window or j < sinks)
        out[b, i, j] = input_pos[b] >= 0 and (causal or j < prefixes[b])
    return out


def listed(num_blocks: Tensor, indices: Tensor) -> Tensor:
    """How often each block is listed, [B, q_blocks, kv_blocks]."""
    out = torch.zeros(indices.shape, dtype=torch.int64)
    for place in itertools.product(*map(range, num_blocks.shape)):
        for block in indices[place][: int(num_blocks[place])].tolist():
            out[(*place, block)] += 1
    return out[:, 0]


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    cache_len = draw(st.integers(1, 40))
    q_len = draw(st.integers(1, min(9, cache_len)))
    window = draw(st.none() | st.integers(1, cache_len + 2))
    batch = draw(st.integers(1, 3))
    lengths = st.integers(0, cache_len + 2)
    return {
        "input_pos": [draw(st.integers(-1, cache_len - q_len)) for _ in range(batch)],
        "q_len": q_len,
        "cache_len": cache_len,
        "window": window,
        "sinks": 0 if window is None else draw(st.integers(0, 9)),
        "prefix": draw(lengths | st.lists(lengths, min_size=batch, max_size=batch)),
        "gqa_group": draw(st.sampled_from([1, 1, 2, 3])),
        "block_size": (
            draw(st.sampled_from([1, 2, 4, 8])),
            draw(st.sampled_from([1, 2, 4, 8, 16])),
        ),
    }


def build(step: dict[str, Any], **changes: Any) -> Any:
    step = step | changes
    if isinstance(step["prefix"], list):
        step["prefix"] = torch.tensor(step["prefix"])
    return decode_block_mask(torch.tensor(step.pop("input_pos")), **step)


@given(steps())
@settings(deadline=None, max_examples=150)
def test_block_table_lists_exactly_the_blocks_with_a_visible_slot(step: dict[str, Any]) -> None:
    """Full: seen by every row of the query block; partial: by some; each at most once.

    On CPU an idle sequence lists one partial block, of which it sees nothing.
    """
    group, (q_block, kv_block) = step["gqa_group"], step["block_size"]
    rule = {k: v for k, v in step.items() if k not in ("gqa_group", "block_size")}
    dense = visible(**rule).repeat_interleave(group, dim=1)
    mask = build(step)
    partial = listed(mask.kv_num_blocks, mask.kv_indices)
    full = listed(mask.full_kv_num_blocks, mask.full_kv_indices)
    for b, q, k in itertools.product(*map(range, partial.shape)):
        if step["input_pos"][b] < 0:
            assert (partial[b, q].sum(), full[b, q].sum()) == (1, 0)
            continue
        rows = slice(q * q_block, (q + 1) * q_block)
        block = dense[b, rows, k * kv_block : (k + 1) * kv_block]
        all_seen = bool(block.all()) and (k + 1) * kv_block <= step["cache_len"]
        expected = (int(block.any() and not all_seen), int(all_seen))
        assert (partial[b, q, k], full[b, q, k]) == expected, (b, q, k)


@given(steps())
@settings(deadline=None, max_examples=50)
def test_mask_mod_sees_exactly_the_visible_slots(step: dict[str, Any]) -> None:
    """The element-wise mask, packed rows included, is the definition."""
    group = step["gqa_group"]
    rule = {k: v for k, v in step.items() if k not in ("gqa_group", "block_size")}
    dense = visible(**rule).repeat_interleave(group, dim=1)
    rows = step["q_len"] * group
    mask_mod = build(step).mask_mod
    actual = create_mask(mask_mod, len(dense), 1, rows, step["cache_len"], device="cpu")
    assert torch.equal(actual[:, 0], dense)


@given(steps())
@settings(deadline=None, max_examples=50)
def test_user_mask_mod_sees_absolute_positions_and_leaves_no_block_full(
    step: dict[str, Any],
) -> None:
    """A parity mask over t, j and the query head is and-ed in, and no block may skip it."""
    group = step["gqa_group"]
    rule = {k: v for k, v in step.items() if k not in ("gqa_group", "block_size")}
    dense, q_len = visible(**rule), step["q_len"]
    batch, kv_heads, cache_len = len(dense), 2, step["cache_len"]

    def parity(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q + 3 * k + h) % 4 != 0

    mask = build(step, mask_mod=parity)
    actual = create_mask(mask.mask_mod, batch, kv_heads, q_len * group, cache_len, device="cpu")
    head = torch.arange(kv_heads * group)[None, :, None, None]
    t = torch.tensor(step["input_pos"])[:, None, None, None] + torch.arange(q_len)[:, None]
    expected = dense[:, None] & ((t + 3 * torch.arange(cache_len) + head) % 4 != 0)
    expected = expected.unflatten(1, (kv_heads, group)).transpose(2, 3).flatten(2, 3)
    assert torch.equal(actual, expected)
    assert mask.full_kv_num_blocks is None
    plain = build(step)
    every = listed(plain.kv_num_blocks, plain.kv_indices)
    every += listed(plain.full_kv_num_blocks, plain.full_kv_indices)
    live = torch.tensor(step["input_pos"]) >= 0
    assert torch.equal(listed(mask.kv_num_blocks, mask.kv_indices)[live], every[live])


def test_mask_and_table_stay_together_when_the_positions_move_on() -> None:
    """A block mask is of the positions that it was built for, not of a buffer that advances."""
    input_pos = torch.tensor([3, 9])
    mask = decode_block_mask(input_pos, cache_len=16, block_size=4)
    input_pos += 5
    actual = create_mask(mask.mask_mod, 2, 1, 1, 16, device="cpu")[:, 0]
    assert torch.equal(actual, visible([3, 9], 1, 16))


def integer_inputs(
    batch: int, heads: int, kv_heads: int, q_len: int, cache_len: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Zero queries, so every visible slot weighs the same, and small integer values."""
    g = torch.Generator().manual_seed(0)
    key = torch.randint(-3, 4, (batch, kv_heads, cache_len, 16), generator=g)
    value = torch.randint(0, 8, (batch, kv_heads, cache_len, 16), generator=g)
    query = torch.zeros(batch, heads, q_len, 16, dtype=dtype)
    return query, key.to(dtype), value.to(dtype)


# cache_len is no multiple of the block; the last geometry is one for which a split-KV kernel exists
GEOMETRIES = [
    {"q_len": 1, "group": 1, "cache_len": 75},
    {"q_len": 1, "group": 4, "cache_len": 75, "pack_gqa": True, "window": 20, "sinks": 3},
    {"q_len": 5, "group": 3, "cache_len": 75, "pack_gqa": True, "window": 20, "prefix": 18},
    {"q_len": 20, "group": 2, "cache_len": 75, "prefix": 33},
    {"q_len": 1, "group": 2, "cache_len": 1100, "pack_gqa": True},
    {"q_len": 1, "group": 2, "cache_len": 1100, "window": 40},
]


@pytest.mark.compiles
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    "geometry", GEOMETRIES, ids=lambda g: "-".join(f"{k}{v:d}" for k, v in g.items())
)
def test_compiled_attention_is_the_mean_of_exactly_the_visible_values(
    geometry: dict[str, Any], dynamic: bool
) -> None:
    """Weights 1/n and integer values: n times the output rounds to the visible sum alone."""
    geometry = dict(geometry)
    q_len, group, cache_len = (geometry.pop(k) for k in ("q_len", "group", "cache_len"))
    rule = {k: v for k, v in geometry.items() if k != "pack_gqa"}
    batch, kv_heads = 2, 2
    query, key, value = integer_inputs(
        batch, kv_heads * group, kv_heads, q_len, cache_len, torch.float32
    )
    last = cache_len - q_len
    every = range(-1, last + 1) if cache_len < 100 else [-1, 0, 1, 127, 128, 511, 640, last]
    run = compiled(
        lambda q, k, v, p: decode_attention(q, k, v, p, block_size=(16, 16), **geometry), dynamic
    )
    with torch._dynamo.config.patch(
        capture_scalar_outputs=False, capture_dynamic_output_shape_ops=False
    ):
        for position in every:
            input_pos = [position, (position * 7 + 3) % (last + 1)]
            out = run(query, key, value, torch.tensor(input_pos))
            seen = visible(input_pos, q_len, cache_len, **rule).float()
            expected = torch.einsum("bqs,bhsd->bhqd", seen, value).repeat_interleave(group, 1)
            count = seen.sum(-1)[:, None, :, None]
            assert torch.equal((out * count).round(), expected), input_pos
            if position < 0:
                assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert graphs() == 1


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_poison_in_the_tail_changes_no_bit(dtype: torch.dtype) -> None:
    """Values of 1e4 and keys of 1e2 in slots that no query may attend leave the output as it is."""
    g = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(3, 2, n, 16, generator=g).to(dtype) for n in (1, 75, 75))
    run = compiled(lambda *args: decode_attention(*args, block_size=16, window=21))
    for position in range(75):
        input_pos = [position, 74 - position, -1]
        clean = run(query, key, value, torch.tensor(input_pos))
        tail = ~visible(input_pos, 1, 75, window=21).any(1)[:, None, :, None]
        poisoned = run(
            query, key.masked_fill(tail, 1e2), value.masked_fill(tail, 1e4), torch.tensor(input_pos)
        )
        assert torch.equal(clean, poisoned)
        assert torch.equal(clean[2], torch.zeros_like(clean[2]))


@pytest.mark.compiles
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("pack", [False, True], ids=["unpacked", "packed"])
@pytest.mark.parametrize("q_len", [1, 3])
def test_score_mod_sees_absolute_positions_and_query_heads(
    q_len: int, pack: bool, mode: str
) -> None:
    """Head h is told to look back 2 h + 1 slots, and returns exactly that slot's value."""
    g = torch.Generator().manual_seed(2)
    value = torch.randn(2, 2, 60, 16, generator=g)
    key, query = torch.zeros_like(value), torch.zeros(2, 6, q_len, 16)

    def look_back(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.where(q - k == 2 * h + 1, score + 300, score)

    def step(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Any:
        # positions computed in the graph, which compiled flex on CPU does not take as they are
        return decode_attention(q, k, v, 2 * p - p, score_mod=look_back, pack_gqa=pack)

    run = compiled(step) if mode == "compiled" else step
    for position in range(11, 57, 1 if mode == "compiled" else 15):
        out = run(query, key, value, torch.tensor([position, 68 - position]))
        for b, h, i in itertools.product(range(2), range(6), range(q_len)):
            slot = (position, 68 - position)[b] + i - (2 * h + 1)
            assert torch.equal(out[b, h, i], value[b, h // 3, slot])


def test_idle_rows_are_zero_and_their_logsumexp_is_minus_infinity() -> None:
    """Also where the idle sequence's query is NaN; and the live logsumexp is log of the count."""
    query, key, value = integer_inputs(2, 4, 2, 3, 20, torch.float64)
    query[1] = torch.nan
    for pack in (False, True):
        out, lse = decode_attention(
            query, key, value, torch.tensor([0, -1]), pack_gqa=pack, return_lse=True
        )
        assert torch.equal(out[1], torch.zeros_like(out[1]))
        assert torch.equal(lse[1], torch.full_like(lse[1], -torch.inf))
        assert torch.equal(lse[0].exp().round(), torch.tensor([1.0, 2.0, 3.0]).expand(4, 3))


def test_functions_compose_with_flex_attention_directly() -> None:
    """decode_block_mask and offset_score_mod are all that a caller of flex_attention needs."""
    g = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 2, n, 16, generator=g) for n in (1, 40, 40))
    input_pos = torch.tensor([17, 5])

    def slope(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + (k - q) * 0.1

    mask = decode_block_mask(input_pos, cache_len=40)
    mod = offset_score_mod(slope, input_pos)
    direct = flex_attention(query, key, value, score_mod=mod, block_mask=mask)
    assert torch.equal(
        direct, decode_attention(query, key, value, input_pos, block_mask=mask, score_mod=slope)
    )


@pytest.mark.compiles
@pytest.mark.parametrize("pack", [False, True], ids=["unpacked", "packed"])
def test_layer_of_a_stack_and_view_of_a_projection_are_read_right_in_a_graph(pack: bool) -> None:
    """Views taken inside the graph, which compiled flex on CPU reads from their storage's start."""
    g = torch.Generator().manual_seed(4)
    stack = torch.randn(3, 2, 2, 2, 1100, 16, generator=g)
    hidden, weight = torch.randn(2, 1, 24, generator=g), torch.randn(64, 24, generator=g)
    input_pos = torch.tensor([1099, 600])

    def step(hidden: Tensor, stack: Tensor) -> Any:
        query = (hidden @ weight.T).view(2, 1, 4, 16).transpose(1, 2)
        return decode_attention(query, *stack[2].unbind(0), input_pos, pack_gqa=pack)

    eager, run = step(hidden, stack), compiled(step)
    assert torch.equal(run(hidden, stack).argmax(-1), eager.argmax(-1))
    layers = torch.arange(3.0)[:, None, None, None, None, None].expand_as(stack)
    out = run(hidden, torch.stack([stack[:, 0], layers[:, 1]], dim=1))
    assert torch.equal(out.round(decimals=2), torch.full_like(out, 2))


@pytest.mark.compiles
@pytest.mark.parametrize("masked", [False, True], ids=["ragged", "user-mask"])
def test_very_negative_scores_lose_no_sequence_of_a_long_cache(masked: bool) -> None:
    """Scores of -300, and splits with nothing to attend: the mean of equal values is that value."""
    query, value = torch.ones(2, 2, 1, 16), torch.ones(2, 2, 1100, 16)
    key, input_pos = torch.full_like(value, -300 / 16), torch.tensor([1099, 100])
    if masked:
        query, key, value, input_pos = (x[:1] for x in (query, key, value, input_pos))

    def recent(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k > q - 40

    run = compiled(
        lambda *args: decode_attention(*args, scale=1.0, mask_mod=recent if masked else None)
    )
    assert torch.equal(run(query, key, value, input_pos), torch.ones_like(query))


def test_shapes_come_out_under_fake_tensors() -> None:
    """No value is read: cache update, block mask and attention run on fake tensors."""
    with FakeTensorMode():
        cache = KVCache(2, 2, 300, 16)
        new = torch.empty(2, 2, 5, 16)
        mask = decode_block_mask(cache.input_pos, q_len=5, cache_len=300, window=7, sinks=2)
        assert mask.kv_indices.shape == (2, 1, 1, 3)
        view = cache.update(new, new)
        cache.advance(torch.tensor([1, 2]))
        cache.rollback(1)
        cache.reset(torch.tensor([0]))
        out = decode_attention(torch.empty(2, 4, 5, 16), *view, block_mask=mask)
        assert isinstance(out, Tensor)
        assert out.shape == (2, 4, 5, 16)


GOOD = {
    "query": torch.zeros(2, 4, 1, 16),
    "key_cache": torch.zeros(2, 2, 40, 16),
    "value_cache": torch.zeros(2, 2, 40, 8),
    "input_pos": torch.zeros(2, dtype=torch.int64),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(4, 1, 16)}, ValueError, "query must be"),
        ({"query": torch.zeros(2, 5, 1, 16)}, ValueError, "multiple of 2, got 5"),
        ({"query": torch.zeros(2, 4, 1, 12)}, ValueError, "key_cache must be"),
        ({"query": torch.zeros(2, 4, 1, 16).half()}, TypeError, "key_cache must be torch.float16"),
        ({"key_cache": torch.zeros(1, 2, 40, 16)}, ValueError, "key_cache must be"),
        ({"value_cache": torch.zeros(2, 2, 39, 8)}, ValueError, "value_cache must be"),
        ({"value_cache": torch.zeros(2, 2, 40, 8, device="meta")}, ValueError, "value_cache must"),
        ({"input_pos": torch.zeros(2)}, TypeError, "input_pos must be an int64"),
        ({"input_pos": 3}, TypeError, "got int"),
        ({"input_pos": torch.zeros(3, dtype=torch.int64)}, ValueError, r"shape \[2\], got \[3\]"),
        ({"window": 0}, ValueError, "window must be at least 1"),
        ({"sinks": 4}, ValueError, "sinks=4 needs a window"),
        ({"sinks": -1, "window": 3}, ValueError, "sinks must be at least 0"),
        ({"prefix": -1}, ValueError, "prefix must be at least 0"),
        ({"prefix": torch.zeros(2)}, TypeError, "prefix must be an int64"),
        ({"block_size": (16, 0)}, ValueError, "block_size must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the argument and what was allowed."""
    with pytest.raises(error, match=message):
        decode_attention(**(GOOD | change))


def test_block_mask_of_another_step_is_refused() -> None:
    """Given with mask arguments, for other lengths, another batch, or packed differently."""
    pos = GOOD["input_pos"]
    good = decode_block_mask(pos, cache_len=40)
    with pytest.raises(ValueError, match="replaces window"):
        decode_attention(**GOOD, block_mask=good, window=3)
    for wrong in (
        decode_block_mask(pos, cache_len=41),
        decode_block_mask(pos, cache_len=40, q_len=2),
        decode_block_mask(pos, cache_len=40, gqa_group=2),
        decode_block_mask(pos[:1], cache_len=40),
    ):
        with pytest.raises(ValueError, match="block_mask must be for"):
            decode_attention(**GOOD, block_mask=wrong)


class TinyTransformer(nn.Module):
    """Two decoder layers with rotary embedding and GQA, over one shared cache or one per layer."""

    def __init__(self, vocabulary: int = 97, dim: int = 64, heads: int = 4, kv_heads: int = 2):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, dim // heads
        width = (heads + 2 * kv_heads) * self.head_dim
        self.embedding = nn.Embedding(vocabulary, dim)
        self.qkv = nn.ModuleList(nn.Linear(dim, width, bias=False) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.head = nn.Linear(dim, vocabulary, bias=False)

    def rotate(self, x: Tensor, t: Tensor) -> Tensor:
        frequency = 100.0 ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)
        angle = t[:, None, :, None] * frequency
        a, b = x.chunk(2, dim=-1)
        return torch.cat(
            [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1
        )

    def forward(
        self, tokens: Tensor, caches: list[KVCache], n: Tensor | int | None = None
    ) -> Tensor:
        batch, q_len = tokens.shape
        input_pos = caches[0].input_pos
        mask = decode_block_mask(
            input_pos, q_len=q_len, cache_len=caches[0].cache_len, block_size=32
        )
        t = input_pos.clamp(min=0)[:, None] + torch.arange(q_len)
        x = self.embedding(tokens)
        for layer, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True)):
            rows = qkv(x).view(batch, q_len, -1, self.head_dim).transpose(1, 2)
            q, k, v = rows.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
            q, k = self.rotate(q, t), self.rotate(k, t)
            if len(caches) == 1:
                view = caches[0].update(k, v, layer=layer)
            else:
                view = caches[layer].update(k, v)
            x = x + out(decode_attention(q, *view, block_mask=mask).transpose(1, 2).flatten(2))
        for cache in caches:
            cache.advance(q_len if n is None else n)
        return self.head(x)

    def without_cache(self, tokens: Tensor) -> Tensor:
        batch, length = tokens.shape
        t, x = torch.arange(length).expand(batch, -1), self.embedding(tokens)
        for qkv, out in zip(self.qkv, self.out, strict=True):
            rows = qkv(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            q, k, v = rows.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
            attention = nn.functional.scaled_dot_product_attention(
                self.rotate(q, t), self.rotate(k, t), v, is_causal=True, enable_gqa=True
            )
            x = x + out(attention.transpose(1, 2).flatten(2))
        return self.head(x)


def caches_for(kind: str, **options: Any) -> list[KVCache]:
    if kind == "shared":
        return [KVCache(3, 2, 150, 16, num_layers=2, **options)]
    return [KVCache(3, 2, 150, 16, **options) for _ in range(2)]


@pytest.mark.compiles
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("kind", ["shared", "per-layer"])
def test_whole_step_is_one_graph_with_the_tokens_of_a_full_recompute(
    kind: str, dynamic: bool
) -> None:
    """140 steps, ragged, with an idle sequence, rollbacks and reuse of a batch slot."""
    torch.manual_seed(0)
    model, caches = TinyTransformer(), caches_for(kind)
    tokens = torch.randint(97, (3, 150))
    step = compiled(model, dynamic)
    position, best = [0, 0, 0], torch.full((3, 150), -1)
    for cache in caches:
        cache.release(2)
    for i in range(140):
        if i == 20:  # sequence 2 comes alive late, so the batch is ragged
            for cache in caches:
                cache.reset(2)
        if i == 60:  # and batch slot 1 is reused
            for cache in caches:
                cache.reset(1)
            position[1], best[1] = 0, -1
        feed = torch.stack([tokens[b, position[b]] for b in range(3)])
        if i % 9 == 5:  # a wrong token, taken back
            step((feed[:, None] + 1) % 97, caches)
            for cache in caches:
                cache.rollback(1)
        chosen = step(feed[:, None], caches).argmax(-1)[:, 0]
        for b in range(3):
            if b < 2 or i >= 20:
                best[b, position[b]] = chosen[b]
                position[b] += 1
    assert graphs() == 1
    assert caches[-1].input_pos.tolist() == position == [140, 80, 120]
    expected = model.without_cache(tokens).argmax(-1)
    for b in range(3):
        assert torch.equal(best[b, : position[b]], expected[b, : position[b]])


@pytest.mark.compiles
def test_chunks_of_ragged_lengths_give_the_tokens_of_a_full_recompute() -> None:
    """Padded chunks that advance by their real lengths, up to the last slot, in one graph."""
    torch.manual_seed(1)
    model, caches = TinyTransformer(), caches_for("shared")
    tokens = torch.randint(97, (3, 150))
    step, best = compiled(model), torch.full((3, 150), -1)
    while (position := caches[0].input_pos.clone()).min() < 150:
        real = torch.minimum(torch.tensor([7, 3, 5]), 150 - position)
        places = (position[:, None] + torch.arange(7)).clamp(max=149)
        chosen = step(tokens.gather(1, places), caches, real).argmax(-1)
        for b in range(3):
            best[b, position[b] : position[b] + real[b]] = chosen[b, : real[b]]
    assert graphs() == 1
    caches[0].check()
    assert torch.equal(best, model.without_cache(tokens).argmax(-1))


@pytest.mark.gpu
@pytest.mark.parametrize("q_len", [1, 4])
def test_cuda_graphs_replay_at_every_position(q_len: int) -> None:
    """mode="reduce-overhead": positions, writes and block table are all on the device."""
    with torch.device("cuda"):
        cache = KVCache(2, 2, 384, 64)
        value = torch.randint(0, 8, (2, 2, 384, 64)).float()
        query = torch.zeros(2, 4, q_len, 64)

        def step(new: Tensor) -> Any:
            out = decode_attention(query, *cache.update(new, new))
            cache.advance(1)
            return out

        run = compiled(step, mode="reduce-overhead")
        for position in range(384 - q_len):
            torch.compiler.cudagraph_mark_step_begin()
            out = run(value[:, :, position : position + q_len].contiguous())
            for i in range(q_len):
                count = position + i + 1
                total = value[:, :, :count].sum(2).repeat_interleave(2, dim=1)
                assert torch.equal((out[:, :, i] * count).round(), total)
    assert graphs() == 1


def test_imports_need_no_test_tools() -> None:
    """The fixed path imports torch and nothing that only tests need."""
    code = (
        "import sys, harness.decoding.attention, harness.decoding.kv_cache\n"
        "assert not {'pytest', 'hypothesis'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.compiles
def test_example_decodes_the_same_tokens_as_without_a_cache() -> None:
    """examples/decode_tiny_model.py exits 0 and reports one graph."""
    result = subprocess.run(
        [sys.executable, "examples/decode_tiny_model.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 graph" in result.stdout
