"""The KV cache: what is written where, and what is left alone, bit for bit."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.decoding.kv_cache import KVCache
from harness.paths.compile import Compiled

BATCH, HEADS, SLOTS = 3, 2, 12


pytestmark = pytest.mark.usefixtures("without_grad")


def new_tokens(seed: int, q_len: int, width: int = 4) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, HEADS, q_len, width, generator=g)


def contents(cache: KVCache, layer: int = 0) -> Tensor:
    return torch.cat([cache.layer(layer).key, cache.layer(layer).value], dim=-1)


class Model:
    """What the cache should hold: lists of tokens, and a grid of every slot."""

    def __init__(self) -> None:
        self.pos = [0] * BATCH
        self.grid = torch.zeros(BATCH, HEADS, SLOTS, 4 + 2)

    def update(self, key: Tensor, value: Tensor) -> None:
        for b in range(BATCH):
            for i in range(key.size(2)):
                if self.pos[b] >= 0 and self.pos[b] + i < SLOTS:
                    self.grid[b, :, self.pos[b] + i] = torch.cat([key[b, :, i], value[b, :, i]], -1)

    def move(self, n: list[int]) -> None:
        for b in range(BATCH):
            if self.pos[b] >= 0:
                moved = self.pos[b] + n[b]
                self.pos[b] = moved if moved >= 0 else -2


counts = st.integers(0, 5) | st.lists(st.integers(0, 5), min_size=BATCH, max_size=BATCH)
which = st.sampled_from(range(BATCH)) | st.lists(st.sampled_from(range(BATCH))) | st.none()
operations = st.one_of(
    st.tuples(st.just("update"), st.integers(1, 5)),
    st.tuples(st.just("advance"), counts),
    st.tuples(st.just("rollback"), counts),
    st.tuples(st.sampled_from(["reset", "release"]), which),
)


@given(st.lists(operations, max_size=20))
@settings(deadline=None, max_examples=150)
def test_any_run_of_operations_writes_what_a_list_would(run: list[tuple[str, Any]]) -> None:
    """Every slot and position equals the model's after every operation; dropped tokens included."""
    cache, model = KVCache(BATCH, HEADS, SLOTS, 4, value_head_dim=2), Model()
    for seed, (name, argument) in enumerate(run):
        if name == "update":
            key, value = new_tokens(seed, argument), new_tokens(seed + 99, argument, 2)
            cache.update(key, value)
            model.update(key, value)
        elif name in ("advance", "rollback"):
            n = [argument] * BATCH if isinstance(argument, int) else argument
            getattr(cache, name)(argument if isinstance(argument, int) else torch.tensor(n))
            model.move(n if name == "advance" else [-x for x in n])
        else:
            getattr(cache, name)(argument)
            every = range(BATCH) if argument is None else argument
            for b in [every] if isinstance(every, int) else every:
                model.pos[b] = 0 if name == "reset" else -1
        assert cache.input_pos.tolist() == model.pos
        assert torch.equal(contents(cache), model.grid)


@pytest.mark.parametrize("q_len", [1, 2, 5, SLOTS])
def test_tokens_past_the_last_slot_are_dropped_and_the_others_kept(q_len: int) -> None:
    """At every position, the last slot and one past the end included; nothing wraps around."""
    for position in range(SLOTS + 2):
        cache, model = KVCache(BATCH, HEADS, SLOTS, 4, value_head_dim=2), Model()
        steps = [position, SLOTS + 1 - position, 0]
        for seed, n in enumerate((torch.tensor(steps), 0)):
            key, value = new_tokens(seed, q_len), new_tokens(seed + 99, q_len, 2)
            cache.update(key, value)
            model.update(key, value)
            cache.advance(n)
            model.move(steps if seed == 0 else [0] * BATCH)
        assert torch.equal(contents(cache), model.grid), position


def test_contents_are_finite_from_the_first_moment_on() -> None:
    """A new cache is all zeros, whatever the memory held."""
    junk = torch.full((64, 1024), torch.nan)
    del junk
    cache = KVCache(4, 2, 64, 16, num_layers=2)
    assert all(torch.equal(x, torch.zeros_like(x)) for x in cache.buffers())


def test_idle_sequence_is_left_untouched_bit_for_bit() -> None:
    """Even a NaN payload in an idle sequence's slots survives an update of the others."""
    cache = KVCache(BATCH, HEADS, SLOTS, 4)
    bits = torch.arange(HEADS * SLOTS * 4, dtype=torch.int32).view(HEADS, SLOTS, 4) + 0x7FC00000
    cache.layer().key[1] = bits.view(torch.float32)
    cache.release([1])
    cache.update(new_tokens(0, 5), new_tokens(1, 5))
    cache.advance(5)
    assert torch.equal(cache.layer().key[1].view(torch.int32), bits)
    assert cache.input_pos.tolist() == [5, -1, 5]


def test_update_returns_the_buffers_themselves_and_the_positions_before_the_step() -> None:
    """No copy: the addresses stay the same over updates, and advance is a separate act."""
    cache = KVCache(BATCH, HEADS, SLOTS, 4, num_layers=2)
    for layer in (1, 0):
        view = cache.update(new_tokens(0, 2), new_tokens(1, 2), layer=layer)
        assert view.key.data_ptr() == cache.layer(layer).key.data_ptr()
        assert view.value.data_ptr() == cache.layer(layer).value.data_ptr()
        assert view.input_pos.tolist() == [0, 0, 0]
    assert torch.equal(contents(cache, 0), contents(cache, 1))


def test_update_of_tokens_that_require_grad_keeps_no_graph() -> None:
    """A cache must not grow an autograd graph over the steps."""
    with torch.enable_grad():
        cache = KVCache(BATCH, HEADS, SLOTS, 4)
        tokens = new_tokens(0, 2).requires_grad_()
        assert not cache.update(tokens, tokens).key.requires_grad


def test_check_reports_dropped_tokens_and_rollback_past_the_start() -> None:
    """The hot path cannot raise for values, check can, and says which sequences."""
    cache = KVCache(BATCH, HEADS, SLOTS, 4)
    cache.advance(torch.tensor([12, 11, 3]))
    cache.check()
    with pytest.raises(ValueError, match=r"2 more tokens at input_pos \{0: 12, 1: 11\}"):
        cache.check(2)
    cache.rollback(torch.tensor([0, 0, 4]))
    with pytest.raises(ValueError, match=r"sequences \[2\] were rolled back"):
        cache.check()
    cache.reset(2)
    cache.check()
    cache.advance(1)
    with pytest.raises(ValueError, match=r"input_pos \{0: 13\}.*exceed 12 slots"):
        cache.check()


def test_reset_with_zero_clears_non_finite_leftovers_of_the_chosen_sequences() -> None:
    """Only these, and in every layer."""
    cache = KVCache(BATCH, HEADS, SLOTS, 4, num_layers=2)
    bad = torch.full((BATCH, HEADS, 2, 4), torch.inf)
    for layer in range(2):
        cache.update(bad, bad, layer=layer)
    cache.reset(torch.tensor([True, False, True]), zero=True)
    for layer in range(2):
        finite = contents(cache, layer).isfinite().flatten(1).all(1)
        assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "chosen",
    [1, [1], torch.tensor([1]), torch.tensor(1), torch.tensor([False, True, False])],
    ids=["int", "list", "index", "scalar", "mask"],
)
def test_sequences_may_be_named_in_any_usual_way(chosen: Any) -> None:
    """An int, ints, an index tensor or a bool mask."""
    cache = KVCache(BATCH, HEADS, SLOTS, 4)
    cache.advance(4)
    cache.reset(chosen)
    assert cache.input_pos.tolist() == [4, 0, 4]


def call(method: str, *args: Any, **kwargs: Any) -> Any:
    return lambda cache: getattr(cache, method)(*args, **kwargs)


GOOD = torch.zeros(BATCH, HEADS, 2, 4)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (call("update", GOOD[:2], GOOD), ValueError, r"key must be \[3, 2, Q, 4\]"),
        (call("update", GOOD[0], GOOD), ValueError, "key must be"),
        (call("update", GOOD, GOOD[:, :, :1]), ValueError, "value must be .* one Q for both"),
        (call("update", GOOD[:, :, :0], GOOD[:, :, :0]), ValueError, r"1\.\.12 tokens"),
        (call("update", *[GOOD.repeat(1, 1, 7, 1)] * 2), ValueError, r"1\.\.12 tokens.*got 14"),
        (call("update", GOOD.half(), GOOD), TypeError, "key must be torch.float32"),
        (call("update", GOOD, GOOD.double()), TypeError, "value must be torch.float32"),
        (call("update", GOOD.to("meta"), GOOD), ValueError, "key must be on cpu"),
        (call("update", GOOD, GOOD, layer=2), IndexError, r"layer must be in 0\.\.1, got 2"),
        (call("advance", -1), ValueError, "n must not be negative"),
        (call("rollback", -1), ValueError, "n must not be negative"),
        (call("advance", torch.ones(3)), TypeError, "n must be an int"),
        (call("rollback", torch.ones(2, dtype=torch.int64)), ValueError, r"shape \[3\]"),
        (call("reset", 3), ValueError, r"sequences in 0\.\.2"),
        (call("release", [0, -1]), ValueError, r"sequences in 0\.\.2"),
        (call("reset", torch.tensor([True])), ValueError, r"shape \[3\]"),
        (lambda cache: KVCache(1, 2, 0, 4), ValueError, "at least 1"),
    ],
    ids=map(str, range(17)),
)
def test_wrong_arguments_are_named_and_change_nothing(
    act: Any, error: type[Exception], message: str
) -> None:
    """The error names the argument and what was allowed, before anything is written."""
    cache = KVCache(BATCH, HEADS, SLOTS, 4, num_layers=2)
    cache.update(GOOD + 1, GOOD + 1)
    before = [x.clone() for x in cache.buffers()]
    with pytest.raises(error, match=message):
        act(cache)
    assert all(torch.equal(a, b) for a, b in zip(before, cache.buffers(), strict=True))


@pytest.mark.compiles
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_all_operations_are_one_graph_and_do_what_they_do_eagerly(dynamic: bool) -> None:
    """Update, advance, rollback, reset and release, over ragged and idle sequences."""

    def step(cache: KVCache, key: Tensor, value: Tensor, chosen: tuple[Tensor, ...]) -> Tensor:
        accepted, back, fresh, idle = chosen
        view = cache.update(key, value, layer=1)
        total = view.key.sum() + view.value.sum()
        cache.advance(accepted)
        cache.rollback(back)
        cache.reset(fresh)
        cache.release(idle)
        return total

    run = Compiled(step, dynamic=dynamic)
    eager, graph = (KVCache(BATCH, HEADS, SLOTS, 4, num_layers=2) for _ in range(2))
    g = torch.Generator().manual_seed(0)
    for seed in range(40):
        key, value = new_tokens(seed, 3), new_tokens(seed + 99, 3)
        accepted, back = (torch.randint(0, n, (BATCH,), generator=g) for n in (4, 2))
        fresh, idle = (torch.rand(BATCH, generator=g) < p for p in (0.2, 0.1))
        run(graph, key, value, (accepted, back, fresh, idle))
        step(eager, key, value, (accepted, back, fresh, idle))
        assert all(torch.equal(a, b) for a, b in zip(eager.buffers(), graph.buffers(), strict=True))
    assert run.graphs == 1
