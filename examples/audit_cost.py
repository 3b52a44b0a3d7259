"""What ``harness.audit(model, every=N)`` costs: time per token of a model of 4 layers, 8 heads of
64 and 1024 slots that decodes with SDPA, with and without an audit around it, in turns.

    python examples/audit_cost.py [TOKENS]
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import harness

LAYERS, HEADS, DIM, SLOTS = 4, 8, 64, 1024
EVERY = (1, 10, 100)


class Model(nn.Module):
    """Attention layers over a static cache, without what lies between them."""

    def __init__(self) -> None:
        super().__init__()
        width = HEADS * DIM
        self.project = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(LAYERS))
        self.keys, self.values = (torch.zeros(LAYERS, 1, HEADS, SLOTS, DIM) for _ in range(2))

    def forward(self, hidden: Tensor, position: int) -> Tensor:
        """The hidden states ``[1, 1, H * D]`` of the next token."""
        mask = (torch.arange(SLOTS) <= position)[None]
        for layer, project in enumerate(self.project):
            parts = project(hidden).unflatten(-1, (3, HEADS, DIM)).unbind(2)
            query, key, value = (part.transpose(1, 2) for part in parts)
            self.keys[layer][:, :, position] = key[:, :, 0]
            self.values[layer][:, :, position] = value[:, :, 0]
            out = F.scaled_dot_product_attention(query, self.keys[layer], self.values[layer], mask)
            hidden = hidden + out.transpose(1, 2).flatten(2)
        return hidden


def measured(tokens: int, around: Callable[[Model], AbstractContextManager[object]]) -> float:
    """Seconds per token of a fresh decode."""
    torch.manual_seed(0)
    model, hidden = Model(), torch.randn(1, 1, HEADS * DIM)
    with torch.no_grad(), around(model):
        start = time.perf_counter()
        for position in range(tokens):
            hidden = model(hidden, position).tanh()
        return (time.perf_counter() - start) / tokens


def main(tokens: int) -> None:
    """Print medians of five rounds, in which all come in turn."""
    ways: dict[str, Callable[[Model], AbstractContextManager[object]]] = {
        "no audit": lambda model: contextlib.nullcontext()
    }
    for every in EVERY:
        ways[f"every={every}"] = lambda model, every=every: harness.audit(model, every=every)
    rounds = [{name: measured(tokens, way) for name, way in ways.items()} for _ in range(5)]
    print("| | ms per token | times as long |\n|---|---|---|")
    for name in ways:
        spent = statistics.median(times[name] for times in rounds)
        ratio = statistics.median(times[name] / times["no audit"] for times in rounds)
        print(f"| {name} | {1e3 * spent:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 200)
