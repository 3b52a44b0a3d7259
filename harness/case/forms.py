"""Forms: the ways in which the same call of FlexAttention can be written, for which a compiler
makes different kernels.

They change no number that is asked for: which slots a query attends is the mask's alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.case.fields import Integer
from harness.case.layouts import OUTSIDE

if TYPE_CHECKING:
    from harness.case.decode_case import DecodeCase

# The tables of the block mask: as the recipe makes them; or listed by hand, whole blocks as full
# ones; and these made in the compiled function, from tables without the dimension of heads; with
# the blocks of a row in reverse; with further columns, which no count covers; as slices of larger
# tables; with the number of partial, or of full, blocks expanded over the batch.
TABLES = (
    "made",
    "listed",
    "inside",
    "reversed",
    "padded",
    "sliced",
    "counts-expanded",
    "full-expanded",
)
# Sizes of batch and heads: of the call and 1, 1 and 1 (blocks of all sequences), all of the call.
TABLE_SIZES = ("batch", "one", "heads")
# What the mask_mod captures: positions [B]; one number, for all sequences; a view that is taken,
# or a tensor that is computed, in the compiled function.
CAPTURES = ("positions", "number", "view", "computed")
# kernel_options: of a split of the CPU's kernel, a tile of the Triton kernels, and the general one
# of these instead of the decode kernel.
OPTIONS = {
    "none": (),
    "partition": (Integer(1),),
    "tile": (Integer(16, 256), Integer(16, 256)),
    "general": (),
}
# The length of a query's row in memory that a matrix product makes.
LONGEST_ROW = 1024
_FIELDS = ("tables", "table_size", "capture", "options", "layers")


def plain(case: DecodeCase) -> bool:
    """Whether the call is written as users' first calls are."""
    return all(getattr(case, name) == type(case).default(name) for name in _FIELDS)


def plain_form(case: DecodeCase) -> DecodeCase:
    """The same call, written as users' first calls are."""
    return case.replace(
        **{name: case.default(name) for name in (*_FIELDS, "recipe")},
        query_layout="contiguous" if case.query_layout not in OUTSIDE else case.query_layout,
    )


def one_position(case: DecodeCase) -> bool:
    """Whether all sequences have to sit at one position, none idle."""
    return case.recipe == "row" or case.capture == "number"


def by_hand(case: DecodeCase) -> bool:
    """Whether the tables of the block mask are listed by hand."""
    return (case.tables, case.table_size) != ("made", "batch")


def made_inside(case: DecodeCase) -> bool:
    """Whether the block mask is put together in the compiled function."""
    return case.tables == "inside" or case.capture in ("view", "computed")


def clashes(case: DecodeCase) -> dict[str, bool]:
    """Reasons why the form of a case cannot go with its other fields, and whether it can."""
    from_row = case.recipe == "row"
    counted = case.recipe != "kv-blocks"
    return {
        "recipe: compiled needs mode=compiled": (
            case.recipe != "compiled" or case.mode == "compiled"
        ),
        f"tables: {case.tables} cannot go with recipe=row": not from_row or case.tables == "made",
        f"tables: {case.tables} cannot go with recipe=kv-blocks, which lists no full blocks": (
            counted or case.tables != "full-expanded"
        ),
        f"tsize: {case.table_size} cannot go with recipe=row": (
            not from_row or case.table_size == "batch"
        ),
        f"tsize: one cannot go with tables={case.tables}, which has a row for each sequence": (
            case.table_size != "one" or not case.tables.endswith("-expanded")
        ),
        f"capture: {case.capture} cannot go with recipe=row": (
            not from_row or case.capture in ("positions", "number")
        ),
        "earlier: cannot go with tables by hand, or made in the compiled function": (
            not case.earlier or not (by_hand(case) or made_inside(case))
        ),
        f"qlayout: product needs H times D of at most {LONGEST_ROW}": (
            case.query_layout != "product" or case.heads * case.head_dim <= LONGEST_ROW
        ),
    }
