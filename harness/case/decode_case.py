"""DecodeCase: one decode call, described by plain values alone.

The text form of a case, its id, is the test id, the filter, the key under which a failure is kept,
and what ``python -m harness repro`` takes. It lists ``key=value`` pairs::

    S=2048,pos=99,H=32,D=128,dtype=bf16

``S`` and ``pos`` are always there; every other field may be left out at its default, and
``str(case)`` leaves it out. Lists are joined by ``/`` (``pos=99/5`` is a ragged batch of two);
``B=4,pos=99`` is short for four sequences at position 99.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from harness.case.dtypes import DTYPES, SHORT_DTYPES
from harness.case.errors import CaseError
from harness.case.fields import (
    Choice,
    FieldError,
    FieldType,
    Flag,
    Integer,
    Integers,
    OptionalNumber,
    Pair,
    Spec,
)
from harness.case.forms import CAPTURES, OPTIONS, TABLE_SIZES, TABLES
from harness.case.kinds import argument_types, forms, stated
from harness.case.layouts import LAYOUTS, QUERY_LAYOUTS, Layout
from harness.case.masks import MASKS, MaskKind
from harness.case.quantised import QUANTISED, Quantised
from harness.case.scores import SCORES, ScoreKind
from harness.case.tails import TAILS, TailKind
from harness.case.together import clash
from harness.case.written import Written

RECIPES = ("fresh", "row", "kv-blocks", "compiled")
KERNELS = ("cpp", "avx2", "triton")
MAX_CACHE_LEN = 2**20
LARGEST_BLOCK = 4096


def _field(key: str, type_: FieldType, help: str, **default: Any) -> Any:
    return field(metadata={"key": key, "type": type_, "help": help}, **default)


@dataclass(frozen=True, kw_only=True, repr=False)
class DecodeCase(Written):
    """One decode call: attention of a few new query tokens over a KV cache.

    Shapes: query ``[B, Hq, Q, D]``, key cache ``[B, Hkv, S, D]``, value cache ``[B, Hkv, S, Dv]``,
    input_pos ``[B]``, output ``[B, Hq, Q, Dv]``. Query token ``i`` of sequence ``b`` sits at
    position ``t = input_pos[b] + i``; its own key and value are already in the cache.

    Raises:
        CaseError: where a field, or a combination of them, is out of range.
    """

    cache_len: int = _field("S", Integer(1, MAX_CACHE_LEN), "slots allocated")
    input_pos: tuple[int, ...] = _field(
        "pos", Integers(-1), "slot of each sequence's first query token; -1 marks an idle sequence"
    )
    heads: int = _field("H", Integer(1, 1024), "query heads", default=1)
    kv_heads: int = _field("Hkv", Integer(1, 1024), "KV heads; 0 stands for H", default=0)
    head_dim: int = _field("D", Integer(1, 1024), "of query and key", default=64)
    value_dim: int = _field("Dv", Integer(1, 1024), "of value; 0 stands for D", default=0)
    q_len: int = _field("Q", Integer(1, 4096), "query tokens per sequence", default=1)
    dtype: str = _field(
        "dtype",
        Choice(DTYPES, short=SHORT_DTYPES),
        "of query, key, value and output",
        default="float32",
    )
    block_size: tuple[int, int] = _field(
        "block", Pair(1, 4096), "query/KV slots per block of the block mask", default=(128, 128)
    )
    mask: str = _field(
        "mask",
        Spec(argument_types(MASKS)),
        forms(MASKS),
        default="causal",
    )
    score: str = _field(
        "score",
        Spec({"none": (), **argument_types(SCORES)}, joined=True),
        f"score_mods in this order, joined by +: {forms(SCORES)}",
        default="none",
    )
    scale: float | None = _field("scale", OptionalNumber(), "1/sqrt(D)", default=None)
    layout: str = _field(
        "layout", Choice(tuple(LAYOUTS)), "how the caches lie in memory", default="contiguous"
    )
    value_layout: str = _field(
        "vlayout", Choice(("same", *LAYOUTS)), "how the value cache does", default="same"
    )
    query_layout: str = _field(
        "qlayout", Choice(QUERY_LAYOUTS), "how the query does", default="contiguous"
    )
    cache: str = _field(
        "cache",
        Choice(("none", *QUANTISED)),
        "the caches' format: none (the dtype), or 8 bits with scales",
        default="none",
    )
    views: str = _field(
        "views",
        Choice(("outside", "inside")),
        "where the layout's view is taken: before the attention call, or in the compiled function",
        default="outside",
    )
    recipe: str = _field(
        "recipe",
        Choice(RECIPES),
        "block mask: built fresh, a row of a precomputed square one (gpt-fast), from_kv_blocks,"
        " create_block_mask compiled by itself",
        default="fresh",
    )
    tables: str = _field(
        "tables", Choice(TABLES), "how the block mask's tables lie, and where", default="made"
    )
    table_size: str = _field(
        "tsize", Choice(TABLE_SIZES), "batch and heads of the tables", default="batch"
    )
    capture: str = _field(
        "capture", Choice(CAPTURES), "what the mask_mod captures of positions", default="positions"
    )
    options: str = _field("options", Spec(OPTIONS), "kernel_options", default="none")
    layers: int = _field("layers", Integer(1, 16), "calls in one compiled function", default=1)
    mode: str = _field(
        "mode", Choice(("eager", "compiled", "reduce-overhead")), "torch.compile", default="eager"
    )
    kernels: str = _field(
        "kernels",
        Choice(KERNELS),
        "what torch.compile makes of flex_attention on a CPU: its C++ kernels, the same with"
        " vectors of AVX2, or the Triton kernels of a GPU, interpreted",
        default="cpp",
    )
    dynamic: bool = _field("dynamic", Flag(), "torch.compile with dynamic shapes", default=False)
    earlier: tuple[int, ...] = _field(
        "earlier",
        Integers(1),
        "cache lengths with which the same compiled function was called before, joined by /;"
        " without dynamic=yes, shapes are dynamic as soon as torch.compile sees another one",
        default=(),
    )
    tail: str = _field(
        "tail",
        Choice(tuple(TAILS)),
        "what the slots hold that no query may attend",
        default="zeros",
    )
    logits: str = _field(
        "logits",
        Choice(("normal", "x5", "low", "huge", "equal")),
        "standard normal; 5 times that; all around -100; one slot 30 times; all equal",
        default="normal",
    )
    probe: str = _field(
        "probe",
        Spec({"none": (), "needle": (Integer(0),), "uniform": (), "integers": ()}),
        "needle:J (slot J holds nearly all the weight); uniform (query 0: counts the keys);"
        " integers (the same with small integers as values: sums are exact in any order)",
        default="none",
    )
    seed: int = _field("seed", Integer(0, 2**32 - 1), "of the tensors' values", default=0)

    def __post_init__(self) -> None:
        for name in ("input_pos", "block_size", "earlier"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kv_heads == 0:
            object.__setattr__(self, "kv_heads", self.heads)
        if self.value_dim == 0:
            object.__setattr__(self, "value_dim", self.head_dim)
        for f in dataclasses.fields(self):
            try:
                value = f.metadata["type"].check(getattr(self, f.name))
            except FieldError as error:
                raise CaseError(f"{f.name} ({f.metadata['key']}): {error}") from None
            object.__setattr__(self, f.name, value)
        if reason := clash(self):
            raise CaseError(reason)

    @property
    def cpp(self) -> bool:
        """Whether what is compiled on a CPU is compiled to C++."""
        return self.kernels != "triton"

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return len(self.input_pos)

    @property
    def softmax_scale(self) -> float:
        """The factor on q . k: ``scale``, or ``1 / sqrt(D)`` where none is given."""
        return self.head_dim**-0.5 if self.scale is None else self.scale

    @property
    def mask_kind(self) -> MaskKind:
        """The mask's entry in the table of kinds."""
        return stated(MASKS, self.mask.partition(":")[0], "mask")

    @property
    def plainly_causal(self) -> bool:
        """Whether every query attends all slots up to its own and no others."""
        return self.mask_kind is MASKS["causal"]

    @property
    def mask_arguments(self) -> dict[str, int]:
        """The mask's arguments by name."""
        return dict(zip(self.mask_kind.arguments, Spec.parse_one(self.mask)[1], strict=True))

    @property
    def scores(self) -> dict[str, dict[str, int]]:
        """The score_mods in the order in which they apply, each with its arguments by name."""
        specs = [Spec.parse_one(text) for text in self.score.split("+") if text != "none"]
        return {
            name: dict(zip(stated(SCORES, name, "score").arguments, numbers, strict=True))
            for name, numbers in specs
        }

    @property
    def score_kinds(self) -> list[ScoreKind]:
        """The score_mods' entries in the table of kinds, in the order in which they apply."""
        return [SCORES[name] for name in self.scores]

    @property
    def has_column(self) -> bool:
        """Whether a logit that has no value takes part in each softmax (``score=sink``)."""
        return any(kind.column for kind in self.score_kinds)

    @property
    def tail_kind(self) -> TailKind:
        """The tail's entry in the table of kinds."""
        return stated(TAILS, self.tail, "tail")

    @property
    def layout_kind(self) -> Layout:
        """The layout's entry in the table of kinds."""
        return stated(LAYOUTS, self.layout, "layout")

    @property
    def value_layout_kind(self) -> Layout:
        """The value cache's layout, as its entry in the table of kinds."""
        same = self.value_layout == "same"
        return self.layout_kind if same else stated(LAYOUTS, self.value_layout, "vlayout")

    @property
    def quantised(self) -> Quantised | None:
        """The kind of quantised cache, None where caches are of the case's dtype."""
        return QUANTISED.get(self.cache)

    @property
    def shared_position(self) -> bool:
        """Whether all sequences sit at one position, and none is idle."""
        return len(set(self.input_pos)) == 1 and self.input_pos[0] >= 0

    @property
    def geometry(self) -> tuple[Any, ...]:
        """What a compiled kernel is specialised to: all fields but positions and values."""
        data = {"input_pos", "tail", "logits", "probe", "seed"}
        fields = [f.name for f in dataclasses.fields(self) if f.name not in data]
        return (self.batch, *(getattr(self, name) for name in fields))

    @property
    def dynamic_shapes(self) -> bool | None:
        """What torch.compile is told: whether shapes are dynamic, or None, its default, where the
        function is called with several."""
        return None if self.earlier and not self.dynamic else self.dynamic

    def earlier_calls(self) -> list[DecodeCase]:
        """The calls with other cache lengths before this one, positions as near to its own as they
        allow, on values without a probe."""
        return [
            self.replace(
                cache_len=length,
                input_pos=tuple(min(pos, length - self.q_len) for pos in self.input_pos),
                probe="none",
                earlier=(),
            )
            for length in self.earlier
        ]

    @classmethod
    def default(cls, name: str) -> Any:
        """The value of a field that is left out of an id."""
        return cls.__dataclass_fields__[name].default

    def replace(self, **changes: Any) -> DecodeCase:
        """A copy with some fields changed; kv_heads and value_dim follow if they were defaults."""
        if "heads" in changes and self.kv_heads == self.heads:
            changes.setdefault("kv_heads", 0)
        if "head_dim" in changes and self.value_dim == self.head_dim:
            changes.setdefault("value_dim", 0)
        return dataclasses.replace(self, **changes)
