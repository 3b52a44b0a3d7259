"""Triton kernels in a process that may or may not be able to interpret them.

``harness.interpreter`` imports Triton, which may be missing; it is imported once it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.interpreter.gpu import chosen, why_not

if TYPE_CHECKING:
    from harness.interpreter.templates import Ran

__all__ = ["interpreting", "why_not"]


@contextmanager
def interpreting(ran: list[Ran]) -> Iterator[None]:
    """Compile and run within for the GPU that the environment names; the kernels that are
    generated are appended to ``ran``."""
    from harness.interpreter import kernels  # noqa: PLC0415  # it needs Triton

    with kernels.interpreting(chosen(), ran):
        yield
