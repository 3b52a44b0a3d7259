"""Precision: the dtypes in which an implementation declares to compute."""

from __future__ import annotations

from dataclasses import dataclass, fields

from harness.case.dtypes import long_dtype

UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}


@dataclass(frozen=True)
class Precision:
    """The dtypes, by long or short name, in which a path declares to compute.

    None stands for the inputs' dtype. An ``operand`` that is declared says also that the query may
    be scaled in that dtype before the product. A ``weight`` of None stands for the operands' dtype
    where that is narrower, since the weights are operands of p @ v.

    Raises:
        ValueError: for a dtype that is not in ``UNIT_ROUNDOFF``.
    """

    operand: str | None = None
    score: str = "float32"
    weight: str | None = None
    accumulator: str = "float32"
    output: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = long_dtype(getattr(self, field.name))
            if value is not None and value not in UNIT_ROUNDOFF:
                raise ValueError(
                    f"precision {field.name}: {value!r} is not one of {' '.join(UNIT_ROUNDOFF)}"
                )
            object.__setattr__(self, field.name, value)

    @property
    def stores_operands(self) -> bool:
        """Whether an operand dtype is declared in which tensors can be stored, unlike TF32."""
        return self.operand not in (None, "tf32")
