"""The fixed path's attention: the mean of exactly the visible values, eager and in one graph."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import flex_attention

from harness.decoding.attention import decode_attention, decode_block_mask, offset_score_mod
from harness.decoding.kv_cache import KVCache
from harness.paths.compile import Compiled
from tests.support.fixed_path import integer_inputs, visible

pytestmark = pytest.mark.usefixtures("without_grad")

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
    run = Compiled(
        lambda q, k, v, p: decode_attention(q, k, v, p, block_size=(16, 16), **geometry),
        dynamic=dynamic,
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
    assert run.graphs == 1


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_poison_in_the_tail_changes_no_bit(dtype: torch.dtype) -> None:
    """Values of 1e4 and keys of 1e2 in slots that no query may attend leave the output as it is."""
    g = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(3, 2, n, 16, generator=g).to(dtype) for n in (1, 75, 75))
    run = Compiled(lambda *args: decode_attention(*args, block_size=16, window=21), dynamic=False)
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

    run = Compiled(step, dynamic=False) if mode == "compiled" else step
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

    eager, run = step(hidden, stack), Compiled(step, dynamic=False)
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

    run = Compiled(
        lambda *args: decode_attention(*args, scale=1.0, mask_mod=recent if masked else None),
        dynamic=False,
    )
    assert torch.equal(run(query, key, value, input_pos), torch.ones_like(query))


@pytest.mark.compiles
@pytest.mark.parametrize(("slots", "block"), [(8, 128), (40, 128), (48, 8), (520, 8)])
@inductor_config.patch({"cpp.simdlen": 256})
def test_keys_behind_those_of_a_head_do_not_count_with_short_vectors(
    slots: int, block: int
) -> None:
    """In code for AVX2, for which torch reads them (flexcpu-cut-tile): those of the next head."""
    query, value = torch.ones(1, 2, 1, 16), torch.ones(1, 2, slots, 16)
    key = torch.stack([torch.zeros(1, slots, 16), torch.full((1, slots, 16), 1000.0)], 1)
    run = Compiled(lambda *args: decode_attention(*args, block_size=block), dynamic=False)
    out = run(query, key, value, torch.tensor([slots - 1]))
    assert torch.equal(out.round(decimals=2), torch.ones_like(out))


@pytest.mark.compiles
def test_a_view_that_a_graph_copies_is_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    """Its copy costs; a buffer has none."""
    query, stack = torch.ones(1, 2, 1, 16), torch.ones(2, 1, 2, 40, 16)
    run = Compiled(decode_attention, dynamic=False)
    run(query, stack[0].clone(), stack[1].clone(), torch.tensor([9]))
    assert "decode_attention" not in str([warning.message for warning in recwarn])
    inside = Compiled(lambda q, kv, pos: decode_attention(q, kv[0], kv[1], pos), dynamic=False)
    inside(query, stack, torch.tensor([9]))
    assert "every call copies all of it" in str([warning.message for warning in recwarn])


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


@pytest.mark.parametrize("pack", [False, True], ids=["unpacked", "packed"])
@pytest.mark.parametrize("q_len", [1, 3])
def test_a_sink_weighs_like_a_slot_without_a_value(pack: bool, q_len: int) -> None:
    """A logit of 0 is one more slot with value 0, log(3) three of them; an idle row stays empty."""
    query, key, value = integer_inputs(3, 4, 2, q_len, 75, torch.float32)
    input_pos, more = [40, -1, 0], torch.tensor([1.0, 3.0, 1.0, 7.0])
    out, lse = decode_attention(
        query,
        key,
        value,
        torch.tensor(input_pos),
        block_size=(16, 16),
        pack_gqa=pack,
        sink_logits=more.log(),
        return_lse=True,
    )
    seen = visible(input_pos, q_len, 75).float()
    count = (seen.sum(-1)[:, None] + more[:, None]).unsqueeze(-1)
    expected = torch.einsum("bqs,bhsd->bhqd", seen, value).repeat_interleave(2, 1)
    assert torch.equal((out * count).round(), expected)
    assert (out[1] == 0).all()
    assert (lse[1] == -torch.inf).all()
    live = [0, 2]
    assert torch.equal(lse[live].exp().round(), count[live].squeeze(-1))


@pytest.mark.compiles
@pytest.mark.parametrize("q_len", [1, 3, 40])
def test_groups_are_packed_where_a_cpu_compiles_them_for_few_tokens(q_len: int) -> None:
    """The same bits as asked for; not eagerly, and not with a block mask for unpacked rows."""
    query, key, value = integer_inputs(2, 6, 2, q_len, 75, torch.float32)
    input_pos = torch.tensor([30, 5])

    def step(pack: bool | None) -> torch.Tensor:
        return decode_attention(query * 0.37, key, value, input_pos, pack_gqa=pack)

    default, packed, plain = (Compiled(step, dynamic=False)(pack) for pack in (None, True, False))
    assert torch.equal(default, packed if q_len < 40 else plain)
    assert torch.equal(step(None), step(False))
    mask = decode_block_mask(input_pos, q_len=q_len, cache_len=75)
    with_mask = Compiled(
        lambda: decode_attention(query * 0.37, key, value, input_pos, block_mask=mask),
        dynamic=False,
    )
    assert torch.equal(with_mask(), plain)


def test_the_logits_of_sinks_are_one_for_each_query_head() -> None:
    """Named, with the shape that was wanted."""
    query, key, value = integer_inputs(1, 4, 2, 1, 16, torch.float32)
    with pytest.raises(ValueError, match=r"sink_logits must be \[4\], got \[2\]"):
        decode_attention(query, key, value, torch.tensor([3]), sink_logits=torch.zeros(2))
