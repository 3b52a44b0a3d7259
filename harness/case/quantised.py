"""The kinds of quantised caches: keys and values in 8 bits, with scales.

A code stands for ``(code - zero_point) * scale``; only int8 has zero points. There is one scale,
and zero point, for each tensor, KV head, or token of a KV head, as its ``grain`` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GRAINS = {"tensor": "[]", "head": "[Hkv]", "token": "[B, Hkv, S]"}


@dataclass(frozen=True)
class Quantised:
    """A kind of quantised cache: the ``dtype`` of its codes, torch's name for it; the ``feature``
    that a user's function declares to get it; the ``step`` around which scales are drawn, such that
    normal numbers use most of the codes; and the ``largest`` code less its zero point."""

    name: str
    dtype: str
    grain: str
    feature: str
    step: float
    largest: int
    zero_point: bool = False

    @property
    def junk_scale(self) -> float:
        """A scale for slots that nobody attends: with it the outermost code is large, and yet
        finite in float16."""
        return 2.0 ** (15 - math.ceil(math.log2(self.largest)))

    @property
    def options(self) -> tuple[str, ...]:
        """The keywords under which a user's function gets scales and zero points."""
        return options_of_feature(self.feature)


_FORMATS = {
    "e4m3": ("float8_e4m3fn", "fp8", 2.0**-4, 448),
    "e5m2": ("float8_e5m2", "fp8", 2.0**-4, 57344),
    "int8": ("int8", "int8", 2.0**-5, 256),
}
QUANTISED: dict[str, Quantised] = {
    f"{name}-{grain}": Quantised(
        f"{name}-{grain}", dtype, grain, feature, step, largest, zero_point=feature == "int8"
    )
    for name, (dtype, feature, step, largest) in _FORMATS.items()
    for grain in GRAINS
}
QUANTISED_FEATURES = {
    "fp8": "caches of float8 (e4m3, e5m2): options key_scale, value_scale, float32 [], [Hkv] or"
    " [B, Hkv, S]",
    "int8": "caches of int8: those options, and key_zero_point, value_zero_point, int32 like them",
}


def options_of_feature(feature: str) -> tuple[str, ...]:
    """The keywords that a feature of quantised caches adds."""
    scales = ("key_scale", "value_scale")
    zeros = ("key_zero_point", "value_zero_point")
    return {"fp8": scales, "int8": (*scales, *zeros)}.get(feature, ())
