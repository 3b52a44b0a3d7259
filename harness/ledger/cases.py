"""The fixed cases on which the ledger records how much of its budget a path uses.

Drawn cases would not do, since the worst of them only grows with their number. ``VERSION`` changes
whenever the list does, and records of another version are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import DecodeCase

VERSION = 1
SEEDS = (1, 2)
_SHAPES = {
    "eager": (
        "S=256,pos=200,H=4",
        "S=600,pos=511/77,H=8,Hkv=2,D=128",
        "S=300,pos=250/130,H=4,Q=4,D=32",
        "S=130,pos=128,H=2,D=80,Dv=96,score=softcap:20+alibi",
        "S=1000,pos=999,H=4,mask=window:100",
        "S=2048,pos=2047,H=2",
    ),
    # Each geometry is compiled, so there are few: for the split-KV decode kernel of FlexAttention
    # on CPU, and for its other kernel.
    "compiled": (
        "S=1024,pos=1023,H=4,Hkv=2",
        "S=1024,pos=500,H=4,Hkv=2",
        "S=300,pos=250/130,H=4,Q=4,D=32",
    ),
}
MODES = tuple(_SHAPES)
_KINDS = {
    "normal": "logits=normal",
    "x5": "logits=x5",
    "low": "logits=low",
    "huge": "logits=huge",
    "equal": "logits=equal",
    "needle": "probe=needle:{newest}",
}
KINDS = tuple(_KINDS)


def cases(mode: str, kind: str, dtype: str, kernels: str = "cpp") -> Iterator[DecodeCase]:
    """The cases behind one entry of the ledger: every shape with every seed."""
    for shape in _SHAPES[mode]:
        newest = DecodeCase.from_text(shape).input_pos[0]
        data = _KINDS[kind].format(newest=newest)
        for seed in SEEDS:
            text = f"{shape},{data},mode={mode},dtype={dtype},tail=leftovers,seed={seed}"
            yield DecodeCase.from_text(text).replace(kernels=kernels)
