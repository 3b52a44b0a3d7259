"""Whole decode steps on the fixed path: a model, its caches, and the tokens of a full recompute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.decoding.attention import decode_attention, decode_block_mask
from harness.decoding.kv_cache import KVCache
from harness.paths.compile import Compiled
from tests.support import ROOT
from tests.support.processes import Preloaded

pytestmark = pytest.mark.usefixtures("without_grad")


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


def compiled(model: TinyTransformer, *, dynamic: bool) -> Compiled:
    return Compiled(lambda tokens, caches, n=None: model(tokens, caches, n), dynamic=dynamic)


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
    step = compiled(model, dynamic=dynamic)
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
    assert step.graphs == 1
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
    step, best = compiled(model, dynamic=False), torch.full((3, 150), -1)
    while (position := caches[0].input_pos.clone()).min() < 150:
        real = torch.minimum(torch.tensor([7, 3, 5]), 150 - position)
        places = (position[:, None] + torch.arange(7)).clamp(max=149)
        chosen = step(tokens.gather(1, places), caches, real).argmax(-1)
        for b in range(3):
            best[b, position[b] : position[b] + real[b]] = chosen[b, : real[b]]
    assert step.graphs == 1
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

        run = Compiled(step, dynamic=False, mode="reduce-overhead")
        for position in range(384 - q_len):
            torch.compiler.cudagraph_mark_step_begin()
            out = run(value[:, :, position : position + q_len].contiguous())
            for i in range(q_len):
                count = position + i + 1
                total = value[:, :, :count].sum(2).repeat_interleave(2, dim=1)
                assert torch.equal((out[:, :, i] * count).round(), total)
    assert run.graphs == 1


def test_imports_need_no_test_tools(preloaded: Preloaded, tmp_path: Path) -> None:
    """The fixed path imports torch and nothing that only tests need."""
    script = tmp_path / "imports.py"
    script.write_text(
        "import sys, harness.decoding.attention, harness.decoding.kv_cache\n"
        "assert not {'pytest', 'hypothesis'} & set(sys.modules)\n"
    )
    done = preloaded.run(script, folder=tmp_path, path=[ROOT])
    assert done.returncode == 0, done.stderr


@pytest.mark.compiles
def test_example_decodes_the_same_tokens_as_without_a_cache(preloaded: Preloaded) -> None:
    """examples/decode_tiny_model.py exits 0 and reports one graph."""
    result = preloaded.run(ROOT / "examples" / "decode_tiny_model.py", folder=ROOT, path=[ROOT])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 graph" in result.stdout
