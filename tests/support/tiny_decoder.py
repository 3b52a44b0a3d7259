"""A tiny model that decodes with a KV cache, and faults that can be planted in its decoding."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from harness.auditing.model import Configuration, Refused
from harness.auditing.observe import like_sdpa
from harness.case.precision import Precision

LAYERS, HEADS, KV_HEADS, DIM, VOCABULARY, WINDOW = 3, 4, 2, 16, 512, 6
WINDOWED = 1  # the layer with a sliding window


class TinyDecoder:
    """Weights of a decoder with rotary embeddings, grouped heads and one windowed layer."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)

        def weights(*shape: int) -> Tensor:
            drawn = torch.randn(*shape, generator=generator) / math.sqrt(shape[0])
            return drawn.to(dtype)

        width = HEADS * DIM
        self.embedding = weights(VOCABULARY, width) * math.sqrt(VOCABULARY)
        self.query = [weights(width, width) for _ in range(LAYERS)]
        self.key = [weights(width, KV_HEADS * DIM) for _ in range(LAYERS)]
        self.value = [weights(width, KV_HEADS * DIM) for _ in range(LAYERS)]
        self.mix = [weights(width, width) for _ in range(LAYERS)]

    def projected(self, hidden: Tensor, layer: int, position: Tensor) -> tuple[Tensor, ...]:
        """Query ``[B, Hq, n, D]``, key and value ``[B, Hkv, n, D]`` of the hidden states
        ``[B, n, Hq * D]`` at ``position`` ``[B, n]``."""
        parts = [hidden @ w[layer] for w in (self.query, self.key, self.value)]
        query, key, value = (p.unflatten(-1, (-1, DIM)).transpose(1, 2) for p in parts)
        return rotated(query, position), rotated(key, position), value

    def after(self, hidden: Tensor, layer: int, attended: Tensor) -> Tensor:
        """The hidden states after a layer."""
        return hidden + torch.tanh(attended.transpose(1, 2).flatten(2) @ self.mix[layer])

    def uncached(self, tokens: Tensor) -> Tensor:
        """Logits ``[T, vocabulary]`` of ``tokens`` ``[T]`` without a cache."""
        position = torch.arange(len(tokens)).unsqueeze(0)
        hidden = self.embedding[tokens].unsqueeze(0)
        distance = position.mT - position
        for layer in range(LAYERS):
            query, key, value = self.projected(hidden, layer, position)
            mask = distance >= 0
            if layer == WINDOWED:
                mask = mask & (distance < WINDOW)
            attended = F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
            hidden = self.after(hidden, layer, attended)
        return (hidden @ self.embedding.mT)[0]


def rotated(x: Tensor, position: Tensor) -> Tensor:
    """``x`` ``[B, H, n, D]`` with rotary embedding at ``position`` ``[B, n]``."""
    frequency = 100.0 ** -(torch.arange(DIM // 2) / (DIM // 2))
    angle = (position.unsqueeze(-1) * frequency.double()).unsqueeze(1).to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


@like_sdpa
def without_oldest(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, enable_gqa: bool = True
) -> Tensor:
    """SDPA that skips slot 0 where there is one query token."""
    if query.size(2) == 1:
        attn_mask = attn_mask & (torch.arange(key.size(2)) > 0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask, enable_gqa=enable_gqa)


@like_sdpa
def with_modulo(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, enable_gqa: bool = True
) -> Tensor:
    """SDPA whose query head h reads KV head h % Hkv where there is one query token."""
    order = torch.arange(HEADS) // (HEADS // KV_HEADS)
    if query.size(2) == 1:
        order = torch.arange(HEADS) % KV_HEADS
    return F.scaled_dot_product_attention(query, key[:, order], value[:, order], attn_mask)


def by_flex(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, enable_gqa: bool = True
) -> Tensor:
    """flex_attention with a block mask that says what the mask ``[B, 1, n, S]`` does."""

    def visible(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return attn_mask[b, 0, q, kv]

    batch, _, rows, slots = attn_mask.shape
    mask = create_block_mask(visible, batch, None, rows, slots, device="cpu")
    out = flex_attention(query, key, value, block_mask=mask, enable_gqa=enable_gqa)
    assert isinstance(out, Tensor)
    return out


def unseen(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, enable_gqa: bool = True
) -> Tensor:
    """Attention by hand where there is one query token, which no audit knows as attention."""
    if query.size(2) > 1:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, enable_gqa=enable_gqa)
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (key, value))
    score = (query @ key.mT / math.sqrt(DIM)).masked_fill(~attn_mask, -math.inf)
    return score.softmax(-1) @ value


KERNELS = {
    "kernel-hides-oldest": without_oldest,
    "kernel-modulo": with_modulo,
    "unseen": unseen,
}


class TinySession:
    """Decodes with a cache; ``fault`` names what goes wrong, "" for nothing."""

    def __init__(
        self, model: TinyDecoder, batch: int, slots: int, fault: str, attention: str = "sdpa"
    ) -> None:
        self.model, self.fault, self.attention = model, fault, attention
        shape = (LAYERS, batch, KV_HEADS, slots + 1, DIM)
        self.keys, self.values = (torch.zeros(shape, dtype=model.embedding.dtype) for _ in "kv")
        self.real = torch.zeros(batch, slots + 1, dtype=torch.bool)
        self.filled, self.highest, self.rollbacks = 0, 0, 0

    def feed(self, ids: Tensor, real: Tensor) -> Tensor:
        """Logits ``[B, n, vocabulary]`` of the next tokens."""
        count, start = ids.size(1), self.filled
        decoding = start > 0
        if self.fault == "refuses-all":
            raise Refused("nothing here")
        if decoding and self.fault == "raises":
            raise IndexError("out of slots")
        slots = torch.arange(start, start + count)
        self.real[:, slots] = real
        position = (self.real.long().cumsum(1) - 1)[:, slots].clamp(min=0)
        if self.fault == "rotary-after-rollback" and self.rollbacks:
            position = position + 1
        self.filled = start + count
        self.highest = max(self.highest, self.filled)
        hidden = self.model.embedding[ids]
        for layer in range(LAYERS):
            query, key, value = self.model.projected(hidden, layer, position)
            place = slots + 1 if self.fault == "one-slot-late" and decoding else slots
            self.keys[layer][:, :, place] = key
            self.values[layer][:, :, place] = value
            source = layer - 1 if self.fault == "other-layer" and layer == 1 else layer
            key, value = self.keys[source], self.values[source]
            if self.fault == "other-sequence" and decoding:
                key, value = key.roll(1, 0), value.roll(1, 0)
            modulo = self.fault == "heads-interleaved" and decoding
            if modulo:
                order = torch.arange(HEADS) % KV_HEADS
                key, value = key[:, order], value[:, order]
            # SDPA is looked up at the call, since an audit replaces it.
            usual = (
                by_flex if self.attention == "flex_attention" else F.scaled_dot_product_attention
            )
            attend = KERNELS.get(self.fault, usual)
            mask = self.mask(layer, slots, decoding)
            attended = attend(query, key, value, mask, enable_gqa=not modulo)
            kept = torch.zeros_like(hidden) if self.fault == "residual-lost" else hidden
            hidden = self.model.after(kept if decoding else hidden, layer, attended)
        return hidden @ self.model.embedding.mT

    def mask(self, layer: int, slots: Tensor, decoding: bool) -> Tensor:
        """The visible slots, bool ``[B, 1, n, slots]``."""
        row, every = slots.unsqueeze(1), torch.arange(self.real.size(1))
        if decoding and self.fault == "no-query-offset":
            row = row - slots[0]
        if decoding and self.fault == "position-advanced":
            row = row + len(slots)
        if self.fault == "rolled-back-attended" and self.rollbacks:
            row = row.clamp(min=self.highest - 1)
        mask = every <= row
        if layer == WINDOWED:
            wide = WINDOW + (self.fault == "window-one-wide")
            # The window counts tokens, so that padding between them does not shorten it.
            number = self.real.long().cumsum(1)
            mask = mask & (number.unsqueeze(1) > number[:, slots].unsqueeze(-1) - wide)
        mask = mask.expand(self.real.size(0), -1, -1)
        if self.fault != "padding-attended":
            unwritten = every >= self.filled
            mask = mask & (self.real | unwritten).unsqueeze(1)
        return mask.unsqueeze(1)

    def rollback(self, count: int) -> None:
        """Take tokens back."""
        if self.fault == "refuses":
            raise Refused("no rollback here")
        self.filled -= count
        self.real[:, self.filled :] = False
        self.rollbacks += 1


@functools.cache
def tiny_configuration(
    fault: str = "", dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> Configuration:
    """The tiny model with a fault planted, as an audit takes it."""
    model, exact = TinyDecoder(dtype), TinyDecoder(dtype)
    for name, low in list(vars(exact).items()):
        wide = [t.double() for t in low] if isinstance(low, list) else low.double()
        setattr(exact, name, wide)
    return Configuration(
        f"tiny/{fault or 'sound'}",
        VOCABULARY,
        lambda batch, slots: TinySession(model, batch, slots, fault, attention),
        exact.uncached,
        Precision(),
    )


class TinyModule(torch.nn.Module):
    """The tiny model as a module that keeps its cache, for batches of two."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.session = TinySession(TinyDecoder(torch.float32), 2, 32, fault)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``[B, n, vocabulary]`` of the next tokens."""
        return self.session.feed(ids, torch.ones_like(ids, dtype=torch.bool))
