"""Sighting: what one attention call attends and whether it computes that rightly, without its keys
and values, so that many can be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.auditing.blame import Blame
from harness.auditing.call import AttentionCall
from harness.auditing.deciding import kernel_blame
from harness.case.precision import Precision
from harness.oracle.error import measure


@dataclass(frozen=True)
class Sighting:
    """The call ``number``, from 1, of ``named``, made at ``where``.

    ``attended`` bool ``[B, Hq, Q, S]`` are the slots that its mask shows and that weigh more than
    0. ``filled`` bool ``[B, S]`` are those whose key or value is not zero. ``keys`` int64
    ``[B, Hq, S]`` and ``queries`` int64 ``[B, Q]`` are fingerprints of key and value together, and
    of the query: equal where the numbers are. ``exact`` and ``bound``, float64 ``[B, Hq, Q, Dv]``,
    are what float64 says and the rounding budget, ``used`` the largest part of it that the
    ``output`` takes. ``blame`` is of the kernel, or None; where it was not judged ``reason`` says
    why, and the three are None.
    """

    number: int
    named: str
    where: str
    dtype: str
    scale: float
    attended: Tensor
    filled: Tensor
    keys: Tensor
    queries: Tensor
    output: Tensor
    exact: Tensor | None = None
    bound: Tensor | None = None
    used: float | None = None
    blame: Blame | None = None
    reason: str = ""

    @classmethod
    @torch.no_grad()
    def of(
        cls, call: AttentionCall, number: int, where: str, precision: Precision | None
    ) -> Sighting:
        """Look at a call and judge its kernel; what cannot be judged has the ``reason``."""
        expected = call.expected(precision)
        attended = call.visible & (expected.weights != 0)
        filled = (call.key != 0).any(-1).any(1) | (call.value != 0).any(-1).any(1)
        keys = _fingerprint(torch.cat([call.key, call.value], -1))
        facts: dict[str, Any] = dict(
            number=number,
            named=call.named,
            where=where,
            dtype=str(call.query.dtype).removeprefix("torch."),
            scale=call.scale,
            attended=_shared(attended),
            filled=filled,
            keys=keys.repeat_interleave(call.group, 1),
            queries=_fingerprint(call.query.transpose(1, 2).flatten(2)),
            output=call.output,
        )
        try:
            exact, bound = expected.exact, expected.budget
            if not exact.isfinite().all():
                raise ValueError("a number that it attends is NaN or infinite")
            blame = kernel_blame(call, expected)
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0]
            return cls(**facts, reason=text or type(error).__name__)
        rows = attended.any(-1, keepdim=True).expand_as(bound)
        used = measure(call.output[rows], exact[rows], bound[rows]).utilisation
        return cls(**facts, exact=exact, bound=bound, used=used, blame=blame)

    @property
    def size(self) -> int:
        """Bytes that it keeps."""
        tensors = (getattr(self, name) for name in self.__dataclass_fields__)
        return sum(t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor))

    def extent(self, b: int) -> int:
        """Slots of a sequence up to the last that is filled."""
        slots = self.filled[b].nonzero()
        return int(slots[-1]) + 1 if slots.numel() else 0

    def holds_as(self, b: int, other: Sighting, o: int) -> bool:
        """Whether sequence ``b`` has the keys and values of sequence ``o`` of another call: all
        that the shorter of them holds, from slot 0 on."""
        length = min(self.extent(b), other.extent(o))
        mine, theirs = self.keys[b][:, :length], other.keys[o][:, :length]
        return length > 0 and torch.equal(mine, theirs)


def _shared(visible: Tensor) -> Tensor:
    """The same, kept once where sequences or heads agree."""
    shape = visible.shape
    for axis in (0, 1):
        first = visible.narrow(axis, 0, 1)
        if (visible == first).all():
            visible = first
    return visible.clone().expand(shape)


def _fingerprint(rows: Tensor) -> Tensor:
    """A number for each row ``[..., N]``, int64 ``[...]``: equal for rows of equal numbers, of any
    dtype, and for others with a chance of about 2**-32. It is the sum, modulo 2**64, of the row's
    numbers times random ones (Carter and Wegman, "Universal classes of hash functions", 1979)."""
    bits = (rows.double() + 0.0).contiguous().view(torch.int64)  # -0 + 0 is 0
    bits = bits ^ (bits >> 32)  # a short number leaves the low half empty
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (rows.size(-1),), generator=generator)
    return (bits * (factors | 1)).sum(-1)
