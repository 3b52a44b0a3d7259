"""The tensors of a case, which have the same bits on every device, and those of a loop."""

from harness.inputs.drawing import LEVER, LOW, NEEDLE, free_slots, make_inputs, redraw, with_tail
from harness.inputs.loop import LEFT, PERIOD, LoopInputs, Stage
from harness.inputs.tensors import Inputs, store

__all__ = [
    "LEFT",
    "LEVER",
    "LOW",
    "NEEDLE",
    "PERIOD",
    "Inputs",
    "LoopInputs",
    "Stage",
    "free_slots",
    "make_inputs",
    "redraw",
    "store",
    "with_tail",
]
