"""Strategies for a user's function: any case of its domain, biased to edges, each cheap to run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from hypothesis import strategies as st

from harness.case import (
    DTYPES,
    FINITE_TAILS,
    MASKS,
    NONFINITE_TAILS,
    SCORES,
    DecodeCase,
)
from harness.case.domain import HEAD_DIMS, MAX_BATCH, MAX_Q_LEN, Domain
from harness.case.layouts import STRIDED
from harness.strategies.paths import (
    GROUPS,
    KV_HEADS,
    LOGITS,
    Q_LENS,
    SCALES,
    often,
    positions,
    probes,
    sampled_cases,
    texts,
    upto,
)

EDGES = (16, 32, 64, 128, 256, 512)

# One example has at most so many scores (B Hq Q S) and cache elements (B Hkv S D).
_MAX_SCORES = 2**14
_MAX_CACHE = 2**16
_BATCH_OF_DRAWS = 100


def decode_cases(
    *,
    dtype: str | Iterable[str] = DTYPES,
    supports: Iterable[str] = (),
    requires: Iterable[str] = (),
    head_dims: Iterable[int] = HEAD_DIMS,
    cache_len: tuple[int, int] = (1, 1024),
) -> st.SearchStrategy[DecodeCase]:
    """A strategy for cases that a function with the signature of ``python -m harness check`` takes.

    Args:
        dtype: one of float32, bfloat16 and float16 by its long or short name, or several.
        requires: features that every case has.
        supports: what the function can do beyond a plain decode call, names of
            ``harness.case.features.FEATURES``.
        head_dims: sizes of the head dimension of query and key.
        cache_len: the fewest and the most slots.

    Raises:
        DomainError: for an unknown feature or an impossible range.
    """
    dtypes = (dtype,) if isinstance(dtype, str) else tuple(dtype)
    # Domain raises for unknown names and names them, so it gets what was given as it is.
    return supported(Domain(supports, head_dims, cache_len, dtypes, requires))  # type: ignore[arg-type]


@st.composite
def _cache_lens(draw: st.DrawFn, low: int, high: int) -> int:
    edges = [n for edge in EDGES for n in (edge - 1, edge, edge + 1)]
    edges = [low, high, *(n for n in edges if low < n < high)]
    few = st.integers(low, min(high, low + 63))
    return draw(st.one_of(few, st.sampled_from(edges), st.integers(low, high)))


@st.composite
def geometries(draw: st.DrawFn, domain: Domain, mode: str = "eager") -> DecodeCase:
    """Geometries of the domain, what a compiled kernel is specialised to, as cases with every
    sequence at position 0."""

    def has(feature: str) -> bool:
        wanted = feature in domain.requires
        return wanted or (feature in domain.features and draw(st.booleans()))

    low, high = domain.cache_len
    cache_len = draw(_cache_lens(max(low, domain.least_slots), high))
    q_len = 1
    room = cache_len - 1 if domain.apart else cache_len
    if room > 1 and has("chunk"):
        longest = min(MAX_Q_LEN, room, max(2, _MAX_SCORES // cache_len))
        q_len = draw(upto(longest, Q_LENS))
    head_dim = draw(upto(max(1, _MAX_CACHE // cache_len), sorted(domain.head_dims)))
    value_dim = head_dim
    if has("value_dim"):
        other = [n for n in (*HEAD_DIMS, 8, 24) if n != head_dim]
        value_dim = draw(st.sampled_from(other))
    room = max(1, _MAX_CACHE // (cache_len * max(head_dim, value_dim)))
    batch = draw(upto(max(2, room), range(2 if "ragged" in domain.requires else 1, MAX_BATCH + 1)))
    heads = max(2, _MAX_SCORES // (cache_len * q_len * batch))
    kv_heads = draw(upto(min(heads, max(2, room // batch)), KV_HEADS[:-1]))
    group = draw(upto(max(2, heads // kv_heads), GROUPS[1:])) if has("gqa") else 1
    score = [draw(texts(kind, EDGES, cache_len)) for kind in SCORES.values() if has(kind.feature)]
    mask = "causal"
    offered = [name for name, kind in MASKS.items() if kind.feature in domain.features]
    demanded = [name for name in offered if MASKS[name].feature in domain.requires]
    if demanded or (len(offered) > 0 and draw(st.booleans())):
        name: str = draw(st.sampled_from(demanded or offered))
        mask = draw(texts(MASKS[name], EDGES, cache_len))
    return DecodeCase(
        cache_len=cache_len,
        input_pos=(0,) * batch,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        q_len=q_len,
        dtype=draw(st.sampled_from(domain.dtypes)),
        mask=mask,
        score="+".join(score) or "none",
        scale=draw(st.sampled_from([s for s in SCALES if s])) if has("scale") else None,
        layout=draw(st.sampled_from(STRIDED)) if has("strided") else "contiguous",
        mode=mode,
    )


@st.composite
def data_of(draw: st.DrawFn, geometry: DecodeCase, domain: Domain) -> DecodeCase:
    """Cases of one geometry, with positions and values drawn."""
    block = draw(st.sampled_from(EDGES))
    one = positions(geometry.cache_len, geometry.q_len, block)
    if "idle" in domain.features:
        live = one
        one = st.integers(0, 4).flatmap(lambda n: live if n < 4 else st.just(-1))
    requires = domain.requires
    ragged = "ragged" in domain.features and ("ragged" in requires or draw(st.booleans()))
    count = geometry.batch
    input_pos = draw(st.tuples(*[one] * count)) if ragged else (draw(one),) * count
    if "idle" in requires:
        input_pos = (-1, *input_pos[1:]) if ragged else (-1,) * count
    if "ragged" in requires and len(set(input_pos)) == 1:
        lowest = -1 if "idle" in domain.features else 0
        fits = range(lowest, geometry.cache_len - geometry.q_len + 1)
        near = [p for p in (input_pos[0] - 1, input_pos[0] + 1) if p in fits]
        input_pos = (*input_pos[:-1], draw(st.sampled_from(near)))
    tails = list(FINITE_TAILS)
    if "nonfinite_tail" in domain.features:
        infinite = "nonfinite_tail" in requires or draw(st.booleans())
        tails = list(NONFINITE_TAILS if infinite else FINITE_TAILS)
    case = geometry.replace(
        input_pos=input_pos,
        tail=draw(st.sampled_from(tails)),
        logits=draw(often("normal", *LOGITS[1:])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    # A needle goes to the edges of blocks that a kernel may have. The case's own block size is that
    # of a block mask, which a user's function does not see.
    return case.replace(probe=draw(probes(case.replace(block_size=(block, block)))))


@st.composite
def supported(draw: st.DrawFn, domain: Domain, mode: str = "eager") -> DecodeCase:
    """Any case of ``domain``."""
    return draw(data_of(draw(geometries(domain, mode)), domain))


def domain_cases(
    domain: Domain, source: int | str, *, compiled_geometries: int = 0
) -> Iterator[DecodeCase]:
    """Distinct cases of a domain, the same for the same ``source``, until no new one is drawn.

    With ``compiled_geometries`` the cases are compiled calls of at most that many geometries, since
    each takes seconds to compile. Several cases share a geometry, so that counting graphs can find
    a second graph for it.
    """
    strategy = supported(domain)
    if compiled_geometries:
        geometry = geometries(domain, "compiled")
        count = compiled_geometries
        distinct = list(dict.fromkeys(sampled_cases(2 * count, f"{source}/geometries", geometry)))
        # The first geometry that Hypothesis draws is always the simplest, which shows least.
        few = distinct[1 : count + 1] or distinct
        strategy = st.sampled_from(few).flatmap(lambda drawn: data_of(drawn, domain))
    seen: set[DecodeCase] = set()
    for batch in itertools.count():
        fresh = dict.fromkeys(sampled_cases(_BATCH_OF_DRAWS, f"{source}/{batch}", strategy))
        new = [case for case in fresh if case not in seen]
        if not new:
            return
        seen.update(new)
        yield from new
