"""Strategies for a user's function: any case of its domain, biased to edges, each cheap to run."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from harness.case import DTYPES, DecodeCase
from harness.case.domain import CACHE_LEN, HEAD_DIMS, Domain
from harness.strategies.drawing import MEDIUM, drawn
from harness.support.deadline import without_default_deadline


def decode_cases(
    *,
    dtype: str | Iterable[str] = DTYPES,
    supports: Iterable[str] = (),
    requires: Iterable[str] = (),
    head_dims: Iterable[int] = HEAD_DIMS,
    cache_len: tuple[int, int] = CACHE_LEN,
) -> st.SearchStrategy[DecodeCase]:
    """A strategy for cases that a function with the signature of ``python -m harness check`` takes.

    Every size occurs that ``check`` draws, but not every combination: a case has at most 2^21
    elements of each cache and 2^17 scores.

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
    domain = Domain(supports, head_dims, cache_len, dtypes, requires)  # type: ignore[arg-type]
    return _cases(domain)


@st.composite
def _cases(draw: st.DrawFn, domain: Domain) -> DecodeCase:
    without_default_deadline()
    return drawn(draw(st.randoms(use_true_random=False)), domain, MEDIUM)
