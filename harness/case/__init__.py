"""Cases: decode calls described by plain values, and the rule which slots their queries attend."""

from harness.case.decode_case import (
    DTYPES,
    MAX_CACHE_LEN,
    RECIPES,
    SHORT_DTYPES,
    DecodeCase,
)
from harness.case.errors import CaseError, InvalidCase
from harness.case.kinds import UnknownKind, stated
from harness.case.layouts import LAYOUTS
from harness.case.masks import MASKS
from harness.case.scores import SCORES
from harness.case.tails import FINITE_TAILS, NONFINITE_TAILS, TAILS

__all__ = [
    "DTYPES",
    "FINITE_TAILS",
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
    "stated",
]
