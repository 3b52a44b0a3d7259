"""Models whose queries and keys know no positions are judged as all others are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import assert_cached_decoding
from harness.auditing.scenario import Scenario

HEADS, DIM, LAYERS, VOCABULARY = 2, 8, 2, 100
SCENARIOS = [
    Scenario("tokens", 24, (6,), (1,) * 4),
    Scenario("drafts", 24, (5,), (1, 3, -2, 1, 2)),
]


@dataclass
class Bare:
    """A decoder with a cache of its own and a bias of scores that depends on distances alone, or
    none. ``fault`` names what goes wrong in decoding, "" for nothing."""

    positions: str
    seed: int
    dtype: torch.dtype = torch.float32
    fault: str = ""
    filled: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        width = HEADS * DIM

        def drawn(*shape: int) -> Tensor:
            return (torch.randn(shape, generator=generator) / math.sqrt(shape[-1])).to(self.dtype)

        self.embedding = drawn(VOCABULARY, width) * math.sqrt(width)
        self.inward = [drawn(width, 3 * width) for _ in range(LAYERS)]
        self.outward = [drawn(width, width) for _ in range(LAYERS)]
        self.by_distance = drawn(HEADS, 8) * 3
        self.cache = torch.zeros(2, LAYERS, 1, HEADS, 24, DIM, dtype=self.dtype)

    def bias(self, distance: Tensor) -> Tensor:
        """What is added to the scores ``[H, Q, S]``; -inf ahead of the query."""
        near = distance.clamp(min=0)
        bias = torch.zeros(HEADS, *distance.shape, dtype=self.dtype)
        if self.positions == "alibi":
            slopes = 2.0 ** -torch.arange(1, HEADS + 1, dtype=self.dtype)
            bias = -slopes.view(-1, 1, 1) * near
        if self.positions == "t5":
            bias = self.by_distance[:, near.clamp(max=7)]
        return bias.masked_fill(distance < 0, -math.inf)

    def forward(self, ids: Tensor, start: int) -> Tensor:
        """Logits ``[1, n, vocabulary]`` of the tokens ``ids`` ``[1, n]``, which come after
        ``start`` others."""
        count = ids.size(1)
        end, fault = start + count, self.fault if start else ""
        hidden = self.embedding[ids]
        for layer in range(LAYERS):
            parts = (hidden @ self.inward[layer]).view(1, count, 3, HEADS, DIM)
            query, key, value = parts.permute(2, 0, 3, 1, 4)
            if fault == "query" and layer == 1:
                query = query.roll(1, -1)
            if fault == "key":
                key = -key
            self.cache[0, layer][:, :, start:end] = key
            self.cache[1, layer][:, :, start:end] = value
            row = torch.arange(count) + (0 if fault == "mask" else start)
            bias = self.bias(row.unsqueeze(1) - torch.arange(end))
            key, value = self.cache[:, layer, :, :, :end]
            attended = F.scaled_dot_product_attention(query, key, value, bias.unsqueeze(0))
            hidden = hidden + attended.transpose(1, 2).flatten(2) @ self.outward[layer]
        return hidden @ self.embedding.mT

    def feed(self, ids: Tensor, real: Tensor) -> Tensor:
        """The logits of the next tokens, which enter the cache."""
        logits = self.forward(ids, self.filled)
        self.filled += ids.size(1)
        return logits

    def rollback(self, count: int) -> None:
        """Take tokens back."""
        self.filled -= count


def audited(positions: str, fault: str = "", seeds: int = 3) -> str:
    """What is said of decoding with weights of several seeds; "" where all of it is right."""
    said = []
    for seed in range(seeds):
        try:
            assert_cached_decoding(
                lambda batch, slots, seed=seed: Bare(positions, seed, fault=fault),
                lambda tokens, seed=seed: Bare(positions, seed, torch.float64).forward(
                    tokens[None], 0
                )[0],
                vocabulary=VOCABULARY,
                scenarios=SCENARIOS,
            )
        except AssertionError as error:
            said.append(str(error))
    return "\n".join(said)


@pytest.mark.rotates(3)
@pytest.mark.parametrize("positions", ["none", "alibi", "t5"])
def test_a_sound_model_without_encoded_positions_is_not_accused(positions: str) -> None:
    """The same tokens at other positions have the same queries and keys but for last bits."""
    assert audited(positions) == ""


@pytest.mark.rotates(4)
@pytest.mark.parametrize("positions", ["none", "alibi", "t5"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("query", "input wrong, first in forward 1, layer 1, sequence 0"),
        ("key", "cache content wrong, first in forward 1, layer 0, sequence 0"),
        ("mask", "mask wrong: no-query-offset, first in forward 1, layer 0, sequence 0"),
    ],
)
def test_a_fault_without_encoded_positions_is_still_named(
    positions: str, fault: str, said: str
) -> None:
    """A query or key that is really another is none of the candidates."""
    assert said in audited(positions, fault, seeds=1)


def test_an_uncached_forward_is_asked_anew_in_each_assertion() -> None:
    """A function of the same name may stand for another model by then."""
    seed = 0

    def uncached(tokens: Tensor) -> Tensor:
        return Bare("none", seed, torch.float64).forward(tokens[None], 0)[0]

    for seed in range(2):  # which ``uncached`` reads
        assert_cached_decoding(
            lambda batch, slots, seed=seed: Bare("none", seed),
            uncached,
            vocabulary=VOCABULARY,
            scenarios=SCENARIOS[:1],
        )
