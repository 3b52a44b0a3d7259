"""What is computed: a decode call described by plain values, and the rule that it is judged by."""

from harness.case.decode_case import (
    DTYPES,
    LAYOUTS,
    MAX_CACHE_LEN,
    NONFINITE_TAILS,
    TAILS,
    CaseError,
    DecodeCase,
    InvalidCase,
)

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "MAX_CACHE_LEN",
    "NONFINITE_TAILS",
    "TAILS",
    "CaseError",
    "DecodeCase",
    "InvalidCase",
]
