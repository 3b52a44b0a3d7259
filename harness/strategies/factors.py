"""What a kernel is specialised to, as factors with a few values each, and geometries that cover
every pair of two factors' values.

Most failures need one or two values to come together, so that a pool in which every pair occurs
shows them (Kuhn, Wallace and Gallo, "Software fault interactions and implications for software
testing", 2004). The pairs are covered by ``allpairspy``.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from allpairspy import AllPairs

from harness.case import CaseError, DecodeCase
from harness.case.forms import CAPTURES, TABLE_SIZES, TABLES
from harness.case.layouts import LAYOUTS, QUERY_LAYOUTS
from harness.paths import PATHS

# A value of a factor changes these fields; "batch" stands for so many sequences, "group" for query
# heads of a KV head, "longer first" for earlier calls with a longer cache and a shorter one.
Value = Mapping[str, Any]
Row = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]


def _each(field: str, *values: Any) -> dict[str, Value]:
    return {str(value): {field: value} for value in values}


# The first value of a factor is the plain one.
FACTORS: dict[str, dict[str, Value]] = {
    "slots": {
        "256": {"cache_len": 256},
        "1024": {"cache_len": 1024},
        "200": {"cache_len": 200},
        "600": {"cache_len": 600},
        "2046": {"cache_len": 2046},
    },
    "sequences": {str(n): {"batch": n} for n in (1, 2, 3, 0)},
    "tokens": _each("q_len", 1, 3, 40, 128),
    "KV heads": _each("kv_heads", 1, 2),
    "group": _each("group", 1, 4, 3),
    "D": _each("head_dim", 64, 16, 80, 24),
    "Dv": {"D": {}, "96": {"value_dim": 96}, "16": {"value_dim": 16}},
    "dtype": _each("dtype", "float32", "bfloat16", "float16"),
    "block": {
        f"{q}/{kv}": {"block_size": (q, kv)}
        for q, kv in ((128, 128), (16, 16), (64, 32), (128, 64), (16, 256), (64, 64), (256, 128))
    },
    "mask": _each(
        "mask", "causal", "window:70", "sinks:40:3", "prefix:90", "document:50", "dilated:90:3"
    ),
    "score": _each(
        "score", "none", "softcap:20", "alibi", "bias:16", "softcap:20+alibi+bias:8", "shift:-60"
    ),
    "scale": {"1/sqrt(D)": {}, "0.05": {"scale": 0.05}},
    "shapes": {"static": {}, "dynamic": {"dynamic": True}},
    "lengths before": {
        "none": {},
        "longer, shorter": {"longer first": True},
        "shorter, longer": {"longer first": False},
    },
    "keys": _each("layout", *LAYOUTS),
    "values": _each("value_layout", "same", "contiguous", "bshd", "stacked"),
    "query": _each("query_layout", *QUERY_LAYOUTS),
    "views": _each("views", "outside", "inside"),
    "recipe": _each("recipe", "fresh", "row", "kv-blocks", "compiled"),
    "tables": _each("tables", *TABLES),
    "table sizes": _each("table_size", *TABLE_SIZES),
    "capture": _each("capture", *CAPTURES),
    "options": _each("options", "none", "partition:64", "partition:4096", "tile:64:64", "general"),
    "layers": _each("layers", 1, 2),
    "vectors": {"the machine's": {"kernels": "cpp"}, "AVX2": {"kernels": "avx2"}},
    "threads": {"1": {}, "2": {}},
}
# Each call before is compiled and run as well.
_DEAR = {"lengths before"}
# An empty batch has a geometry of its own, since little can be seen in it.
_EMPTY = {"sequences": "0"}
# Factors, and values, that are another kernel's, or take an interpreter too long. Triton kernels
# refuse most masks whose blocks are smaller than their tiles.
_NOT_GPU = {"vectors", "threads"}
_OTHERS = {
    "cpp": {"tile:64:64", "general", "64/64", "256/128"},
    "triton": {
        "partition:64",
        "partition:4096",
        "1024",
        "2046",
        "16/16",
        "64/32",
        "16/256",
        "number",
    },
    "cuda": {"partition:64", "partition:4096", "16/16", "64/32", "16/256"},
}
# torch's C++ kernels, its Triton kernels interpreted, and those on a GPU.
KERNELS = ("cpp", "triton", "cuda")


@dataclass(frozen=True)
class Geometry:
    """A geometry as a row of factors: the ``case`` at position 0, ``threads`` and ``device``."""

    case: DecodeCase
    threads: int
    row: tuple[tuple[str, str], ...]
    device: str = "cpu"

    @property
    def pairs(self) -> set[Pair]:
        """The pairs of two factors' values in it, in the order of ``FACTORS``."""
        order = list(FACTORS)
        row = sorted(self.row, key=lambda item: order.index(item[0]))
        return set(itertools.combinations(row, 2))


def factors(kernels: str) -> dict[str, list[str]]:
    """The factors of these kernels, each with its values."""
    left_out = set() if kernels == "cpp" else _NOT_GPU
    return {
        name: [
            value for value in values if value not in _OTHERS[kernels] and _EMPTY.get(name) != value
        ]
        for name, values in FACTORS.items()
        if name not in left_out
    }


def _plain(name: str) -> str:
    return next(iter(FACTORS[name]))


def geometry(row: Mapping[str, str], kernels: str) -> Geometry | None:
    """The geometry of a row, the plain value for each factor that it lacks; None where there is no
    such call."""
    changes: dict[str, Any] = {}
    for name, values in FACTORS.items():
        changes |= values[row.get(name, _plain(name))]
    batch, group = changes.pop("batch"), changes.pop("group")
    if "longer first" in changes:
        lengths = changes["cache_len"] + 60, 130
        changes["earlier"] = lengths if changes.pop("longer first") else lengths[::-1]
    if changes["value_layout"] == changes["layout"] == "contiguous":
        changes["value_layout"] = "same"
    try:
        case = DecodeCase(
            input_pos=(0,) * batch,
            heads=changes["kv_heads"] * group,
            mode="compiled",
            **changes | ({"kernels": "triton"} if kernels == "triton" else {}),
        )
    except CaseError:
        return None
    if PATHS["full-cache"].refuses(case):
        return None
    return Geometry(case, int(row.get("threads", "1")), tuple(row.items()), device_of(kernels))


def device_of(kernels: str) -> str:
    """The device on which these kernels run."""
    return "cuda" if kernels == "cuda" else "cpu"


# The values that bring torch's split-KV kernel on CPU, which needs four of them together.
SPLIT = {
    "slots": ["1024", "2046"],
    "sequences": ["1", "2", "3"],
    "tokens": ["1"],
    "shapes": ["static"],
    "lengths before": ["none"],
    "block": ["128/128", "16/16", "64/32", "128/64"],
    "query": ["contiguous", "projected", "product"],
    "options": ["none", "partition:64"],
    # Of the others, what its code tells apart.
    "scale": ["1/sqrt(D)"],
    "score": ["none", "alibi", "shift:-60"],
    "values": ["same"],
    "keys": ["contiguous", "bshd", "longer", "stacked"],
    "tables": ["made", "listed", "counts-expanded", "full-expanded"],
    "table sizes": ["batch", "heads"],
    "capture": ["positions", "view"],
    "recipe": ["fresh", "row", "kv-blocks"],
    "layers": ["1"],
}


def covering(
    kernels: str,
    seed: int,
    accepts: Callable[[Geometry], bool] = lambda geometry: True,
    among: Mapping[str, list[str]] | None = None,
) -> list[Geometry]:
    """Geometries that ``accepts`` takes, such that every pair occurs in one that can; another seed
    gives others, in another order. With ``among``, only these values of some factors take part."""
    numbers = random.Random(seed)
    possible = factors(kernels) | dict(among or {})
    # Values in an order that the seed changes, so that each seed puts others together.
    shuffled = {name: numbers.sample(values, len(values)) for name, values in possible.items()}
    names = list(shuffled)

    def valid(values: Iterable[str]) -> bool:
        made = geometry(dict(zip(names, values, strict=False)), kernels)
        return made is not None and accepts(made)

    rows = AllPairs(list(shuffled.values()), filter_func=valid)
    made = [geometry(dict(zip(names, values, strict=True)), kernels) for values in rows]
    pool = [one for one in made if one is not None]
    # A filter makes it leave some pairs out.
    seen = set[Pair]().union(*(one.pairs for one in pool))
    missing = sorted(set(_possible(possible, kernels, accepts)) - seen)
    numbers.shuffle(missing)
    while missing:
        row: Row = {}
        for pair in missing:
            larger = row | dict(pair)
            fits = all(row.get(name, value) == value for name, value in pair)
            if fits and valid([larger.get(name, possible[name][0]) for name in names]):
                row = larger
        one = geometry({name: row.get(name, possible[name][0]) for name in names}, kernels)
        assert one is not None
        pool.append(one)
        missing = [pair for pair in missing if pair not in one.pairs]
    pool = _spared(pool, kernels)
    empty = geometry({name: _EMPTY.get(name, possible[name][0]) for name in names}, kernels)
    pool += [empty] if among is None and empty is not None and accepts(empty) else []
    numbers.shuffle(pool)
    return pool


def _spared(pool: list[Geometry], kernels: str) -> list[Geometry]:
    """The pool with plain values in place of dear ones, where every pair is in another geometry."""
    counts = Counter(pair for one in pool for pair in one.pairs)
    spared = []
    for one in pool:
        cheap = geometry(dict(one.row) | {name: _plain(name) for name in _DEAR}, kernels)
        lost = one.pairs - cheap.pairs if cheap else one.pairs
        spare = cheap is not None and all(counts[pair] > 1 for pair in lost)
        counts -= Counter(lost if spare else ())
        spared.append(cheap if spare and cheap else one)
    return spared


def possible_pairs(
    kernels: str, accepts: Callable[[Geometry], bool] = lambda geometry: True
) -> set[Pair]:
    """The pairs of which there is a geometry that is accepted, all else plain."""
    return set(_possible(factors(kernels), kernels, accepts))


def _possible(
    values: Mapping[str, list[str]], kernels: str, accepts: Callable[[Geometry], bool]
) -> Iterator[Pair]:
    plain = {name: of[0] for name, of in values.items()}
    for first, second in itertools.combinations(values, 2):
        for one, other in itertools.product(values[first], values[second]):
            made = geometry({**plain, first: one, second: other}, kernels)
            if made is not None and accepts(made):
                yield (first, one), (second, other)
