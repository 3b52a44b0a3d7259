"""Statements of a standalone script that write a call in the form of its case; for paths, forms are
stated in ``harness.paths.forms``."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from harness.case import DecodeCase
from harness.case.fields import Spec
from harness.case.forms import by_hand, made_inside
from harness.case.layouts import PROJECTED
from harness.inputs import make_inputs
from harness.paths.calls import recipe
from harness.paths.forms import laid_out, tables_of
from harness.script.text import integers
from harness.script.text import laid_out as replaced

_NAMES = ("counts", "indices", "full_counts", "full_indices")
_PART = f"query{PROJECTED[1]}"
# The statement that lays a query out anew, of x, and the view that is taken of it.
QUERIES = {
    "projected-inside": (PROJECTED[0], _PART),
    "tokens-inside": ("x.transpose(1, 2).contiguous()", _PART),
    "product": (
        "x.transpose(1, 2).flatten(2)",
        "(query @ eye).unflatten(-1, (HQ, D)).transpose(1, 2)",
    ),
}
# What is handed over of the positions, and how the function makes them of it.
_CAPTURED = {
    "positions": ("pos", "given"),
    "number": ("number", "given"),
    "view": ("torch.nn.functional.pad(pos, (2, 0))", "given[2:]"),
    "computed": ("pos - 1", "given + 1"),
}


def has_function(case: DecodeCase) -> bool:
    """Whether the call is made in a function of its own."""
    inside = made_inside(case) or case.query_layout in QUERIES or case.layers > 1
    return inside or case.mode != "eager"


def machine(case: DecodeCase) -> Iterator[str]:
    """Statements that make torch generate code for another machine, and OPTIONS of the call."""
    if case.kernels == "avx2":
        yield "torch._inductor.config.cpp.simdlen = 256  # as on machines without AVX-512"
    if constant := options(case):
        yield constant


def placed_query(case: DecodeCase) -> Iterator[str]:
    """Statements that lay the query out for the view that is taken in the function."""
    if case.query_layout in QUERIES:
        yield from replaced("query", QUERIES[case.query_layout][0])
    if case.query_layout == "product":
        yield "eye = torch.eye(HQ * D, dtype=DTYPE, device=DEVICE)"


def query_view(case: DecodeCase) -> Iterator[str]:
    """The statement of the function that takes the view of the query."""
    if case.query_layout in QUERIES:
        yield f"query = {QUERIES[case.query_layout][1]}"


def tables(case: DecodeCase) -> Iterator[str]:
    """Statements that make ``tables``, those of the block mask: its numbers of partial blocks and
    their indices, and the same of full ones."""
    inputs = make_inputs(case)
    mask = recipe(inputs)
    made = tables_of(laid_out(inputs, mask) if by_hand(case) else mask)
    names = [
        name if table is not None else "None" for name, table in zip(_NAMES, made, strict=True)
    ]
    for name, table in zip(_NAMES, made, strict=True):
        if table is not None:
            yield from _table(name, table)
    yield f"tables = [{', '.join(names)}]"
    if case.tables == "inside":
        yield "tables = [None if x is None else x[:, 0].long() for x in tables]"


def _table(name: str, table: Tensor) -> Iterator[str]:
    """Statements that make a table with these numbers, sizes and strides."""
    if table.is_contiguous():
        yield from integers(name, tuple(table.flatten().tolist()))
        yield f"{name} = {name}.to(DEVICE, torch.int32).view{_sizes(table.shape)}"
        return
    memory = table.as_strided((table.untyped_storage().nbytes() // table.element_size(),), (1,), 0)
    yield from integers(name, tuple(memory.tolist()))
    yield f"{name} = {name}.to(DEVICE, torch.int32)"
    where = f"{_sizes(table.shape)}, {table.stride()}, {table.storage_offset()}"
    yield f"{name} = {name}.as_strided({where})"


def _sizes(shape: tuple[int, ...]) -> str:
    return str(tuple(shape))


def mask_from_tables(case: DecodeCase, mask_mod: str) -> str:
    """An expression that makes the block mask of ``tables``."""
    return f"BlockMask.from_kv_blocks(*tables, {case.block_size}, {mask_mod}, (Q, S))"


def mask_inside(case: DecodeCase) -> Iterator[str]:
    """The statements of the function that put the block mask together of ``tables, given``."""
    shown = case.mask_kind.script.format(**case.mask_arguments)
    yield f"start = {_CAPTURED[case.capture][1]}"
    yield ""
    yield "def shown(b, h, q, kv):"
    at = "start" if case.capture == "number" else "start[b]"
    yield f"    t = {at} + q"
    yield f"    return ({shown}) & ({at} >= 0)"
    yield ""
    if case.tables == "inside":
        yield "tables = [None if x is None else x[:, None].int() for x in tables]"
    yield f"mask = {mask_from_tables(case, 'shown')}"


def given(case: DecodeCase) -> str:
    """What is handed over of the positions."""
    return _CAPTURED[case.capture][0]


def options(case: DecodeCase) -> str:
    """The constant OPTIONS, with the argument ``kernel_options`` of the call, or nothing."""
    name, numbers = Spec.parse_one(case.options)
    values = {
        "none": "",
        "partition": '"PARTITION_SIZE": {}',
        "tile": '"BLOCK_M": {}, "BLOCK_N": {}',
        "general": '"FORCE_USE_FLEX_ATTENTION": True',
    }[name].format(*numbers)
    return f'OPTIONS = {{"kernel_options": {{{values}}}}}' if values else ""
