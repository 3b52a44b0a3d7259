"""What an audit needs of a model: a way to decode with a cache, and an uncached forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from harness.auditing.reference import Uncached
from harness.case.precision import Precision


class Refused(Exception):
    """A model that does not do what is asked; the message is in its project's own words."""


class Session(Protocol):
    """A model that decodes a batch with one cache."""

    def feed(self, ids: Tensor, real: Tensor) -> Tensor:
        """The logits ``[B, n, vocabulary]`` of the next tokens ``ids`` int64 ``[B, n]``, which
        enter the cache; where ``real`` ``[B, n]`` is False there is padding."""

    def rollback(self, count: int) -> None:
        """Take the last ``count`` tokens of each sequence back."""


@dataclass(frozen=True)
class Configuration:
    """A model in one of its configurations.

    ``begin(batch, slots)`` starts a session on an empty cache; it raises ``Refused`` where the
    model's project refuses. ``uncached`` is a forward in float64 of a single sequence.
    """

    name: str
    vocabulary: int
    begin: Callable[[int, int], Session]
    uncached: Uncached
    precision: Precision | None = None
