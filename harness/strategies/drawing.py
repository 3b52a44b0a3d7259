"""Drawing of cases for a user's function: any case of its domain, biased to edges, from random
numbers.

The numbers come from ``random.Random`` where ``check`` draws, since independent cases show more
than the variations that Hypothesis makes of one case; and from Hypothesis, which then shrinks
them, in ``harness.strategies.functions``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from harness.case import (
    FINITE_TAILS,
    LARGEST_BLOCK,
    MASKS,
    NONFINITE_TAILS,
    SCORES,
    DecodeCase,
)
from harness.case.domain import HEAD_DIMS, MAX_BATCH, MAX_Q_LEN, Domain
from harness.case.kinds import Argument, Kind
from harness.case.layouts import LAYOUTS, OUTSIDE, STRIDED
from harness.case.probes import needle_slots
from harness.case.quantised import QUANTISED

T = TypeVar("T")

EDGES = (16, 32, 64, 128, 256, 512)
# Where the tiles, splits and offsets of a kernel for long caches may end.
_FAR_EDGES = (*EDGES, 1024, 2048, 4096, 16384, 65536)
_BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, MAX_BATCH)
_KV_HEADS = (1, 2, 3, 4, 5, 8, 12, 16, 32)
_GROUPS = (2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 32)
_Q_LENS = (2, 3, 5, 8, 16, 17, 64, 127, MAX_Q_LEN)
_SCALES = (0.05, 0.5, 1.0, 2.0)
_LOGITS = ("x5", "low", "huge", "equal")
_PROBES = ("none", "none", "needle", "needle", "uniform", "integers")


@dataclass(frozen=True)
class Limits:
    """The most that one drawn case has: ``slots``, ``scores`` (B Hq Q S), elements of a ``cache``
    (B Hkv S D), of a cache that is ``expanded`` to all query heads, as a plain function may do, and
    of the ``query``."""

    slots: int
    scores: int
    cache: int
    expanded: int
    query: int = 2**21

    def allow(self, case: DecodeCase) -> bool:
        """Whether a case keeps to the limits."""
        dim = max(case.head_dim, case.value_dim)
        tokens = case.batch * case.cache_len
        return (
            case.cache_len <= self.slots
            and tokens * case.heads * case.q_len <= self.scores
            and tokens * case.kv_heads * dim <= self.cache
            and tokens * case.heads * dim <= self.expanded
            and case.batch * case.heads * case.q_len * dim <= self.query
        )


# Of cases that are cheap whatever the function; of those that are cheap enough for a test, among
# which every size occurs; and of those of which the function's speed tells whether they are run.
SMALL = Limits(2**10, 2**14, 2**16, 2**18)
MEDIUM = Limits(2**17, 2**17, 2**21, 2**22)
LARGE = Limits(2**20, 2**23, 2**24, 2**26)
# A case that keeps to these is run however slow the function is.
FREE = Limits(2**10, 2**15, 2**18, 2**20)


def _coin(numbers: Random) -> bool:
    """As a coin falls."""
    return numbers.randrange(2) == 1


def _upto(numbers: Random, limit: int, values: Sequence[int]) -> int:
    """One of the values that are at most ``limit``, or the first value where none is."""
    return numbers.choice([v for v in values if v <= limit] or values[:1])


def _evenly(numbers: Random, limit: int, classes: Iterable[Sequence[int]]) -> int:
    """A value that is at most ``limit``, each class of them equally often."""
    possible = [[v for v in values if v <= limit] for values in classes]
    return numbers.choice(numbers.choice([values for values in possible if values]))


def size(numbers: Random, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, evenly over powers of two: any, a power of two, one
    next to it, or a multiple of 16."""
    power = numbers.randint(low.bit_length(), high.bit_length())
    number = numbers.randint(low, min(high, max(low, 2**power - 1)))
    # All are made of one number, so that Hypothesis finds the smallest whichever of them fails.
    edge = 2 ** (number.bit_length() - 1) if number else 0
    aligned = number - number % 16
    found = numbers.choice((number, number, aligned, edge, edge - 1, edge + 1))
    return min(high, max(low, found))


def position(numbers: Random, cache_len: int, q_len: int, block: int) -> int:
    """The position of a live sequence: the first, the second, the last, one at a multiple of
    ``block`` or at the highest power of two, or any, evenly over powers of two."""
    last = cache_len - q_len
    multiple = block * numbers.randint(1, max(1, last // block))
    highest = 2 ** max(0, last.bit_length() - 1)
    near = (multiple - 1, multiple, multiple + 1, highest - 1, highest)
    edges = [n for n in (0, 1, last, *near) if n <= last]
    return numbers.choice((size(numbers, 0, last), numbers.randint(0, last), numbers.choice(edges)))


def _argument(numbers: Random, argument: Argument, cache_len: int) -> int:
    likely = list(dict.fromkeys(n for block in EDGES for n in argument.likely(block)))
    if argument.in_cache:
        likely = [n for n in likely if n <= cache_len]
    if argument.listed or _coin(numbers):
        return numbers.choice(likely)
    most = cache_len if argument.most is None else argument.most
    return size(numbers, argument.low, most) if argument.low > 0 else numbers.choice(likely)


def _text(numbers: Random, kind: Kind, cache_len: int) -> str:
    """A kind with drawn arguments, as text of a case id."""
    return kind.text({n: _argument(numbers, a, cache_len) for n, a in kind.arguments.items()})


def geometry(
    numbers: Random, domain: Domain, limits: Limits = SMALL, mode: str = "eager"
) -> DecodeCase:
    """A geometry of the domain, what a compiled kernel is specialised to, as a case with every
    sequence at position 0; within the limits, as far as the domain has such cases."""

    def has(feature: str) -> bool:
        wanted = feature in domain.requires
        return wanted or (feature in domain.features and _coin(numbers))

    low, high = domain.cache_len
    low = max(low, domain.least_slots)
    cache_len = size(numbers, low, max(low, min(high, limits.slots)))
    q_len = 1
    room = cache_len - 1 if domain.apart else cache_len
    if room > 1 and has("chunk"):
        longest = min(MAX_Q_LEN, room, max(2, limits.scores // cache_len))
        q_len = _upto(numbers, longest, _Q_LENS)
    dims = sorted(domain.head_dims)
    head_dim = value_dim = _upto(numbers, max(1, limits.cache // cache_len), dims)
    if has("value_dim"):
        value_dim = numbers.choice([n for n in (*HEAD_DIMS, 8, 24) if n != head_dim])
    widest = max(head_dim, value_dim)
    room = max(1, limits.cache // (cache_len * widest))
    batches = (_BATCHES[:1], _BATCHES[1:4], _BATCHES[4:])
    batch = _evenly(numbers, max(2, room), batches[1 if "ragged" in domain.requires else 0 :])
    tokens, rows = cache_len * batch, q_len * batch
    most = limits.scores // (rows * cache_len)
    most = min(most, limits.expanded // (tokens * widest), limits.query // (rows * widest))
    heads = max(2, most)
    kv_heads = _upto(numbers, min(heads, max(2, room // batch)), _KV_HEADS)
    group = _upto(numbers, max(2, heads // kv_heads), _GROUPS) if has("gqa") else 1
    score = [_text(numbers, kind, cache_len) for kind in SCORES.values() if has(kind.feature)]
    mask = "causal"
    offered = [kind for kind in MASKS.values() if kind.feature in domain.features]
    demanded = [kind for kind in offered if kind.feature in domain.requires]
    if demanded or (offered and _coin(numbers)):
        mask = _text(numbers, numbers.choice(demanded or offered), cache_len)
    layout, value_layout, query_layout = "contiguous", "same", "contiguous"
    if has("strided"):
        layout, value_layout, query_layout = _layouts(numbers)
    cache = _cache(numbers, domain)
    if cache != "none":
        layout, value_layout = "contiguous", "same"
    return DecodeCase(
        cache_len=cache_len,
        input_pos=(0,) * batch,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        q_len=q_len,
        dtype=numbers.choice(domain.dtypes),
        mask=mask,
        score="+".join(score) or "none",
        scale=numbers.choice(_SCALES) if has("scale") else None,
        mode=mode,
        layout=layout,
        value_layout=value_layout,
        query_layout=query_layout,
        cache=cache,
    )


def _cache(numbers: Random, domain: Domain) -> str:
    """A kind of quantised cache of the domain, or none, half of the time where it need not be."""
    kinds = [kind for kind in QUANTISED.values() if kind.feature in domain.features]
    if "nonfinite_tail" in domain.requires:
        kinds = [kind for kind in kinds if kind.feature == "fp8"]
    if "strided" in domain.requires:
        kinds = []
    required = [kind for kind in kinds if kind.feature in domain.requires]
    if not kinds or not (required or _coin(numbers)):
        return "none"
    return numbers.choice(required or kinds).name


def _layouts(numbers: Random) -> tuple[str, str, str]:
    """Layouts of keys, values and query of which at least one is not contiguous; keys and values
    seldom have different ones."""
    layout, query = numbers.choice(("contiguous", *STRIDED)), numbers.choice(OUTSIDE)
    if (layout, query) == ("contiguous", "contiguous"):
        layout = numbers.choice(STRIDED)
    alike = [n for n in LAYOUTS if LAYOUTS[n].shared == LAYOUTS[layout].shared and n != layout]
    other = [n for n in alike if n in ("contiguous", *STRIDED)]
    different = bool(other) and numbers.randrange(4) == 3
    value = numbers.choice(other) if different else "same"
    return layout, value, query


def _probe(numbers: Random, case: DecodeCase) -> str:
    kind = numbers.choice(_PROBES)
    if kind != "needle":
        return kind
    groups = [*needle_slots(case).values(), range(case.cache_len)]
    return f"needle:{numbers.choice(numbers.choice(groups))}"


def data(numbers: Random, geometry: DecodeCase, domain: Domain) -> DecodeCase:
    """A case of a geometry, with positions and values drawn."""
    block = _upto(numbers, max(EDGES[0], geometry.cache_len), _FAR_EDGES)

    def one() -> int:
        if "idle" in domain.features and numbers.randrange(5) == 4:
            return -1
        return position(numbers, geometry.cache_len, geometry.q_len, block)

    def has(feature: str) -> bool:
        return feature in domain.requires or (feature in domain.features and _coin(numbers))

    ragged, count = has("ragged"), geometry.batch
    input_pos = tuple(one() for _ in range(count)) if ragged else (one(),) * count
    if "idle" in domain.requires:
        input_pos = (-1, *input_pos[1:]) if ragged else (-1,) * count
    if "ragged" in domain.requires and len(set(input_pos)) == 1:
        lowest = -1 if "idle" in domain.features else 0
        fits = range(lowest, geometry.cache_len - geometry.q_len + 1)
        near = [p for p in (input_pos[0] - 1, input_pos[0] + 1) if p in fits]
        input_pos = (*input_pos[:-1], numbers.choice(near))
    kind = geometry.quantised
    spoilt = has("nonfinite_tail") and (kind is None or kind.feature == "fp8")
    case = geometry.replace(
        input_pos=input_pos,
        tail=numbers.choice(NONFINITE_TAILS if spoilt else FINITE_TAILS),
        logits=numbers.choice(_LOGITS) if _coin(numbers) else "normal",
        seed=numbers.randrange(2**32),
    )
    # A needle goes to the edges of blocks that a kernel may have. The case's own block size is that
    # of a block mask, which a user's function does not see.
    block = min(block, LARGEST_BLOCK)
    if kind is not None:
        return case.replace(probe=numbers.choice(("none", "none", "none", "uniform")))
    return case.replace(probe=_probe(numbers, case.replace(block_size=(block, block))))


def drawn(numbers: Random, domain: Domain, limits: Limits = SMALL) -> DecodeCase:
    """Any case of ``domain`` within the limits."""
    # Evenly over powers of two up to the limits, so that most long caches are narrow, thus cheap.
    spare = numbers.randint(0, max(0, (limits.cache // SMALL.cache).bit_length() - 1))
    less = Limits(
        limits.slots,
        max(SMALL.scores, limits.scores >> spare),
        max(SMALL.cache, limits.cache >> spare),
        max(SMALL.expanded, limits.expanded >> spare),
    )
    return data(numbers, geometry(numbers, domain, less), domain)


def domain_cases(
    domain: Domain, source: int | str, limits: Limits = SMALL, *, compiled_geometries: int = 0
) -> Iterator[DecodeCase]:
    """Cases of a domain without end, the same for the same ``source``.

    With ``compiled_geometries`` the cases are compiled calls of at most that many geometries, since
    each takes seconds to compile. Several cases share a geometry, so that counting graphs can find
    a second graph for it.
    """
    numbers = Random(source)
    few = [geometry(numbers, domain, limits, "compiled") for _ in range(compiled_geometries)]
    for turn in itertools.count():
        if few:
            yield data(numbers, few[turn % len(few)], domain)
        else:
            yield drawn(numbers, domain, limits)
