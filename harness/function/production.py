"""Production shapes: what is served in practice, many heads over a long cache."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from harness.case import CaseError, DecodeCase
from harness.case.domain import Domain

# As in Llama 3 8B, Mistral 7B and Qwen 3 8B; KV heads where the function takes groups.
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
# Slots, and sequences where the function takes a ragged batch.
SHAPES = ((4096, 1), (8192, 3), (32768, 1), (4096, 4), (16384, 1), (16384, 2))
# Without groups there are as many heads as make no larger a cache than the largest with groups.
_MOST_ELEMENTS = 32768 * KV_HEADS * HEAD_DIM
_WINDOW = 1024
_OPTIONS: dict[str, dict[str, Any]] = {
    "window": {"mask": f"window:{_WINDOW}"},
    "sinks": {"mask": f"sinks:{_WINDOW}:4"},
    "prefix": {"mask": f"prefix:{_WINDOW}"},
    "dilated": {"mask": f"dilated:{_WINDOW}:2"},
    "softcap": {"score": "softcap:50"},
    "alibi": {"score": "alibi"},
    "sink": {"score": "sink"},
    "strided": {"layout": "bshd", "query_layout": "projected"},
    "chunk": {"q_len": 16},
    "scale": {"scale": 0.1},
    "value_dim": {"value_dim": 64},
    "nonfinite_tail": {"tail": "nan"},
    "fp8": {"cache": "e4m3-head", "probe": "none"},
    "int8": {"cache": "int8-token", "probe": "none"},
}


def production_cases(domain: Domain, seed: int, mode: str = "eager") -> Iterator[DecodeCase]:
    """Cases of production shapes in ``domain``, without end, the same for the same ``seed``; none
    where it has only shorter caches.

    The first ones show most: the newest tokens of a nearly full cache, and a ragged batch.
    Positions, needles and values are drawn; options that the function takes come in turns, those
    that it requires always. None are made of what no such case has, as "idle" and two masks.
    """
    numbers = random.Random(seed)
    low, high = domain.cache_len
    shapes = [(slots, batch) for slots, batch in SHAPES if low <= slots <= high]
    narrow = [dtype for dtype in ("bfloat16", "float16") if dtype in domain.dtypes]
    dtypes = itertools.cycle(narrow or domain.dtypes)
    head_dim = min(domain.head_dims, key=lambda dim: (abs(dim - HEAD_DIM), dim))
    always: dict[str, Any] = {}
    for name in domain.requires:
        always |= _OPTIONS.get(name, {})
    optional = [n for n in domain.features if n in _OPTIONS and n not in domain.requires]
    options = itertools.cycle([{}, *(_OPTIONS[n] for n in optional)])
    refused = 0
    for slots, sequences in itertools.cycle(shapes):
        batch = sequences if "ragged" in domain.features else 1
        batch = max(batch, 2) if "ragged" in domain.requires else batch
        heads = max(1, min(HEADS, _MOST_ELEMENTS // (slots * head_dim)))
        changes = next(options) | always
        newest = slots - changes.get("q_len", 1)
        # The first sequence is nearly full; each of the others has less, in powers of two.
        positions = [newest - numbers.randrange(128)]
        positions += [newest >> numbers.randrange(1, 8) for _ in range(batch - 1)]
        needle = f"needle:{numbers.randrange(positions[0] // 2, positions[0] + 1)}"
        case = DecodeCase(
            cache_len=slots,
            input_pos=tuple(positions),
            heads=HEADS if "gqa" in domain.features else heads,
            kv_heads=min(KV_HEADS, heads) if "gqa" in domain.features else heads,
            head_dim=head_dim,
            dtype=next(dtypes),
            tail=numbers.choice(("poison", "leftovers")),
            probe=numbers.choice((needle, "none")),
            seed=numbers.randrange(2**32),
            mode=mode,
        )
        try:
            case = case.replace(**changes)
        except CaseError:
            continue  # An option that cannot go with what is required.
        refused = 0 if domain.refuses(case) is None else refused + 1
        if not refused:
            yield case
        elif refused > len(SHAPES) * (1 + len(optional)):
            return
