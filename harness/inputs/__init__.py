"""The tensors of a case, which have the same bits on every device."""

from harness.inputs.tensors import LEVER, LOW, NEEDLE, Inputs, free_slots, make_inputs, store

__all__ = ["LEVER", "LOW", "NEEDLE", "Inputs", "free_slots", "make_inputs", "store"]
