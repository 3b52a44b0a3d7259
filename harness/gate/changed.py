"""What a change touches: the steps of the gate that come first, and the kernels that it is in."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Touched:
    """The ``steps`` that come first, in their order, and the kernels that are touched: ``cpp``,
    ``triton`` or "", which is both or neither."""

    steps: tuple[str, ...]
    kernels: str = ""


_CONTRACT, _COMPILED, _LONG = "compile contract", "compiled geometries", "long contexts"
_KEPT, _PROBES, _DRAWN, _LEDGER = "kept cases", "probes", "drawn cases", "ledger"
# The first pattern that a path matches counts; folders of torch and of this project.
_PATTERNS: tuple[tuple[str, Touched], ...] = (
    ("*flex/templates/*", Touched((_CONTRACT, _COMPILED, _LONG), "triton")),
    ("*.jinja", Touched((_CONTRACT, _COMPILED, _LONG), "triton")),
    ("*kernel/flex/flex_cpu*", Touched((_CONTRACT, _COMPILED, _LONG), "cpp")),
    ("*codegen/cpp*", Touched((_CONTRACT, _COMPILED, _LONG), "cpp")),
    ("*codegen/triton*", Touched((_CONTRACT, _COMPILED, _LONG), "triton")),
    ("*kernel/flex/*", Touched((_CONTRACT, _COMPILED, _LONG))),
    ("*_inductor/*", Touched((_CONTRACT, _COMPILED))),
    ("*_dynamo/*", Touched((_CONTRACT, _COMPILED))),
    ("*block_mask*", Touched((_CONTRACT, _COMPILED, _PROBES))),
    ("*flex_attention*", Touched((_KEPT, _PROBES, _CONTRACT))),
    ("*kv_cache*", Touched((_KEPT, _CONTRACT, _LONG))),
    ("*decoding/*", Touched((_KEPT, _CONTRACT, _COMPILED))),
    ("*ATen/native/*", Touched((_PROBES, _LEDGER, _LONG))),
    ("*oracle/*", Touched((_KEPT, _PROBES, _LEDGER))),
)


def touched(paths: Sequence[str]) -> Touched:
    """What changes to these paths touch; nothing in particular where no path is known."""
    steps: list[str] = []
    kernels: list[str] = []
    for path in paths:
        for pattern, one in _PATTERNS:
            if fnmatch.fnmatch(path, pattern):
                steps += one.steps
                kernels += [one.kernels]
                break
    one_kind = kernels[0] if kernels and len(set(kernels)) == 1 else ""
    return Touched(tuple(dict.fromkeys(steps)), one_kind)


def order(steps: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The steps with those first that changes to these paths touch, but after the first, which is
    the proof that the run can fail."""
    first, *others = steps
    wanted = [step for step in touched(paths).steps if step in others]
    return [first, *wanted, *(step for step in others if step not in wanted)]
