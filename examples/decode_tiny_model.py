"""Decode 300 tokens with a tiny random model: the same tokens as without a cache, at one graph.

Each call verifies CHUNK tokens at once: the last accepted one and CHUNK - 1 drafts. Rejected drafts
are rolled back. A graph is compiled per geometry, and q_len is part of it, so a fixed chunk width
keeps the prompt, the speculation and the end of the cache within one graph.
"""

import sys

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention

from harness.decoding.attention import decode_attention, decode_block_mask
from harness.decoding.kv_cache import KVCache

CHUNK, TOKENS, VOCABULARY, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 4, 300, 61, 4, 2, 16, 2
PROMPT = [3, 14, 15, 9, 26]


class Model(nn.Module):
    """A random decoder with GQA."""

    def __init__(self) -> None:
        super().__init__()
        dim = HEADS * HEAD_DIM
        self.tokens, self.places = nn.Embedding(VOCABULARY, dim), nn.Embedding(512, dim)
        self.qkv = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in range(LAYERS))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(LAYERS))
        self.head = nn.Linear(dim, VOCABULARY)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Next token after each of ``tokens`` [1, Q]; with a cache they continue what it holds."""
        q_len, place = tokens.size(1), torch.arange(tokens.size(1))
        if cache is not None:
            mask = decode_block_mask(cache.input_pos, q_len=q_len, cache_len=cache.cache_len)
            place = cache.input_pos + place
        x = self.tokens(tokens) + self.places(place)
        for layer in range(LAYERS):
            rows = self.qkv[layer](x).unflatten(2, (-1, HEAD_DIM)).transpose(1, 2)
            q, k, v = rows.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
            if cache is None:
                y = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            else:
                y = decode_attention(q, *cache.update(k, v, layer=layer), block_mask=mask)
            x = x + self.out[layer](y.transpose(1, 2).flatten(2))
        if cache is not None:
            cache.advance(q_len)
        return self.head(x).argmax(-1)


@torch.no_grad()
def main() -> int:
    """Decode twice, print what was done, and return 0 if the tokens are the same."""
    torch.manual_seed(0)
    model, length = Model(), len(PROMPT) + TOKENS
    expected = list(PROMPT)
    while len(expected) < length:
        expected.append(int(model(torch.tensor([expected]))[0, -1]))

    cache = KVCache(1, KV_HEADS, 512, HEAD_DIM, num_layers=LAYERS)
    step = torch.compile(model, fullgraph=True, dynamic=False)
    tokens, held, calls, rejected = list(PROMPT), 0, 0, 0
    while len(tokens) < length:
        known = tokens[held : held + CHUNK]
        # A draft that is often right: the true token, but every fifth one is spoilt.
        truth = expected[len(tokens) :] + [0] * CHUNK
        drafts = [t if (len(tokens) + i) % 5 else (t + 1) % VOCABULARY for i, t in enumerate(truth)]
        chunk = (known + drafts)[:CHUNK]
        following = step(torch.tensor([chunk]), cache)[0].tolist()
        good = len(known)
        while good < CHUNK and chunk[good] == following[good - 1]:
            good += 1
        cache.rollback(CHUNK - good)
        calls, rejected, held = calls + 1, rejected + CHUNK - good, held + good
        tokens = tokens[: held - good] + chunk[:good] + tokens[held:]
        if held == len(tokens):
            tokens.append(following[good - 1])
    cache.check()
    same, graphs = tokens[:length] == expected, counters["stats"]["unique_graphs"]
    print(
        f"{TOKENS} tokens in {calls} calls of q_len {CHUNK}, {rejected} drafts rolled back, "
        f"{graphs} graph: {'the same tokens as' if same else 'NOT the tokens'} without a cache"
    )
    return 0 if same and graphs == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
