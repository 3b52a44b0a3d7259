"""Cases: decode calls described by plain values, and the rule which slots their queries attend."""

from harness.case.decode_case import (
    LARGEST_BLOCK,
    MAX_CACHE_LEN,
    RECIPES,
    DecodeCase,
)
from harness.case.dtypes import DTYPES, SHORT_DTYPES, long_dtype
from harness.case.errors import CaseError, InvalidCase
from harness.case.kinds import UnknownKind, stated
from harness.case.layouts import LAYOUTS
from harness.case.masks import MASKS
from harness.case.scores import SCORES
from harness.case.tails import FINITE_TAILS, NONFINITE_TAILS, TAILS

__all__ = [
    "DTYPES",
    "FINITE_TAILS",
    "LARGEST_BLOCK",
    "LAYOUTS",
    "MASKS",
    "MAX_CACHE_LEN",
    "NONFINITE_TAILS",
    "RECIPES",
    "SCORES",
    "SHORT_DTYPES",
    "TAILS",
    "CaseError",
    "DecodeCase",
    "InvalidCase",
    "UnknownKind",
    "long_dtype",
    "stated",
]
