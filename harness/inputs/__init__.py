"""The tensors of a case, which have the same bits on every device."""

from harness.inputs.drawing import LEVER, LOW, NEEDLE, free_slots, make_inputs, with_tail
from harness.inputs.tensors import Inputs, store

__all__ = ["LEVER", "LOW", "NEEDLE", "Inputs", "free_slots", "make_inputs", "store", "with_tail"]
