"""The tensors of a case, the same bits on every device."""

from harness.inputs.tensors import (
    LEVER,
    LOW,
    NEEDLE,
    POISON,
    Inputs,
    free_slots,
    make_inputs,
)

__all__ = ["LEVER", "LOW", "NEEDLE", "POISON", "Inputs", "free_slots", "make_inputs"]
