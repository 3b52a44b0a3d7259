"""Triton kernels watched in Triton's interpreter: what they load and store, and in which order.

Triton's interpreter runs the programs of a grid one after the other on the CPU, at the addresses
of the tensors themselves. Every load and store goes through its builder, so that is where it is
seen whether an address lies in a tensor that was passed, whether somebody has written there, and
whether two programs store to one place. A GPU shows none of that, or only now and then.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.verdict import Finding, Verdict
from harness.verdict.judgement import Violation

_Patches = list[tuple[Any, str, Any]]
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The first address of a tensor's elements, and the first one after them."""
    start = tensor.data_ptr()
    if not tensor.numel():
        return start, start
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()


class Unwritten(TorchDispatchMode):
    """Which bytes of memory that was allocated inside have not been written yet.

    ``torch.empty`` and its like allocate; every other operation of torch writes the whole tensor
    that it returns or changes, and a view writes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[int, np.ndarray[Any, Any]] = {}
        # During a launch the interpreter makes tensors of its own in the same memory.
        self.launching = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.launching:
            return result
        name = func.overloadpacket.__name__
        returned = result if isinstance(result, (tuple, list)) else (result,)
        aliases = [value.alias_info for value in func._schema.returns]
        for tensor, alias in zip(returned, aliases, strict=False):
            if not isinstance(tensor, torch.Tensor):
                continue
            base, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
            if name in _ALLOCATIONS:
                self.written[base] = np.zeros(size, dtype=bool)
            elif alias is None:
                # New memory may lie where memory was that is gone.
                self.written.pop(base, None)
            elif alias.is_write and base in self.written:
                start, end = _extent(tensor)
                self.written[base][start - base : end - base] = True
        return result


@dataclass
class Region:
    """The memory of one tensor that a kernel was given: elements of ``size`` bytes from ``start``
    to ``end``, in a storage that begins at ``base``."""

    name: str
    start: int
    end: int
    size: int
    base: int

    @functools.cached_property
    def writer(self) -> np.ndarray[Any, Any]:
        """The number of the program that stored to each element, 0 for none."""
        # Made when it is needed: most tensors are only read.
        return np.zeros((self.end - self.start) // self.size, dtype=np.int64)


@dataclass
class Launch:
    """One launch of a kernel: the tensors that it was given, by address."""

    kernel: str
    regions: list[Region]
    unwritten: Unwritten

    def check(self, what: str, pointers: Any, mask: Any, size: int, program: int) -> None:
        """See whether a load or store may be made.

        Args:
            what: ``loads`` or ``stores``, or ``updates`` for an atomic operation.
            pointers: addresses, of any shape; where ``mask`` is False they are not used.
            size: bytes of an element.
            program: the number of the program of the grid, from 1 on.

        Raises:
            Violation: with the verdict OUT_OF_BOUNDS, UNINITIALISED or RACE.
        """
        addresses = np.asarray(pointers)[np.asarray(mask, dtype=bool)].astype(np.int64).ravel()
        left = np.ones(addresses.shape, dtype=bool)
        for region in self.regions:
            inside = left & (addresses >= region.start) & (addresses + size <= region.end)
            if inside.any():
                left &= ~inside
                self._inside(what, region, addresses[inside], size, program)
        if left.any():
            self._stop(Verdict.OUT_OF_BOUNDS, f"{what} {self._place(int(addresses[left][0]))}")

    def _inside(self, what: str, region: Region, addresses: Any, size: int, program: int) -> None:
        index = (addresses - region.start) // region.size
        written = self.unwritten.written.get(region.base)
        if written is not None:
            at = addresses - region.base
            if what == "stores":
                for byte in range(size):
                    written[at + byte] = True
            elif not written[at].all():
                first = int(index[~written[at]][0])
                text = f"{what} element {first} of {region.name}, which nobody wrote"
                self._stop(Verdict.UNINITIALISED, text)
        if what == "stores":
            others = region.writer[index]
            if ((others != 0) & (others != program)).any():
                first = int(index[(others != 0) & (others != program)][0])
                text = f"stores to element {first} of {region.name}, as another program did"
                self._stop(Verdict.RACE, text)
            region.writer[index] = program

    def _place(self, address: int) -> str:
        """Where an address outside of all tensors lies, seen from the nearest."""
        if not self.regions:
            return "outside every tensor: it was given none"
        distance = [max(r.start - address, address - r.end, 0) for r in self.regions]
        near = self.regions[int(np.argmin(distance))]
        count = (near.end - near.start) // near.size
        return f"element {(address - near.start) // near.size} of {near.name}, which has {count}"

    def _stop(self, verdict: Verdict, text: str) -> None:
        raise Violation(Finding(verdict, f"kernel {self.kernel} {text} ({_line()})"))


def _line() -> str:
    """The innermost line that is being run outside of Triton and of this module."""
    triton = str(Path(sys.modules["triton"].__file__ or "").parent)
    frame: Any = sys._getframe()
    while frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(triton):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def _tensors(names: list[str], values: Any, keywords: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in [*zip(names, values, strict=False), *keywords.items()]:
        if isinstance(value, tuple):
            yield from _tensors([f"{name}[{i}]" for i in range(len(value))], value, {})
        elif isinstance(getattr(value, "base", None), torch.Tensor):
            yield name, value.base
        elif isinstance(value, torch.Tensor):
            yield name, value


def _patched(patches: _Patches) -> Callable[[], None]:
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in patches]
    for owner, name, value in patches:
        setattr(owner, name, value)

    def undo() -> None:
        for owner, name, value in before:
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)

    return undo


@contextmanager
def sanitized() -> Iterator[None]:
    """Within, what a Triton kernel does that no kernel may do raises.

    Raises:
        Violation: where a kernel loads or stores outside the tensors that it was given
            (OUT_OF_BOUNDS), loads memory that nobody wrote (UNINITIALISED), or stores to an element
            to which another program of its grid has stored (RACE).
    """
    from triton.runtime import interpreter  # noqa: PLC0415  # an optional package

    from harness.interpreter.arithmetic import with_narrow_floats  # noqa: PLC0415  # needs it too

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    unwritten, launches = Unwritten(), list[Launch]()

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        regions = []
        for name, tensor in _tensors(self.arg_names, arguments, keywords):
            start, end = _extent(tensor)
            base = tensor.untyped_storage().data_ptr()
            regions.append(Region(name, start, end, tensor.element_size(), base))
        launches.append(Launch(self.fn.__name__, regions, unwritten))
        unwritten.launching = True
        try:
            return original["__call__"](self, *arguments, **keywords)
        finally:
            launches.pop()
            unwritten.launching = False

    def see(self: Any, what: str, pointers: Any, mask: Any) -> None:
        """Check what the program that runs now does, where a kernel was launched here."""
        if not launches:
            return
        (x, y, z), (nx, ny, _) = self.grid_idx, self.grid_dim
        program = 1 + int(x) + int(nx) * (int(y) + int(ny) * int(z))
        size = max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
        where = np.broadcast_to(mask.data, pointers.data.shape)
        launches[-1].check(what, pointers.data, where, size, program)

    def load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        see(self, "loads", pointers, mask)
        return original["create_masked_load"](self, pointers, mask, *rest)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        see(self, "stores", pointers, mask)
        return original["create_masked_store"](self, pointers, value, mask, *rest)

    def update(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        see(self, "updates", pointers, mask)
        return original["create_atomic_rmw"](self, operation, pointers, value, mask, *rest)

    patches: _Patches = [
        (executor, "__call__", call),
        (builder, "create_masked_load", load),
        (builder, "create_masked_store", store),
        (builder, "create_atomic_rmw", update),
    ]
    original = {name: getattr(owner, name) for owner, name, _ in patches}
    undo = _patched(patches)
    try:
        with with_narrow_floats(), unwritten:
            yield
    finally:
        undo()


@contextmanager
def reversed_programs() -> Iterator[None]:
    """Within, the programs of every grid run from the last to the first."""
    from triton.runtime import interpreter  # noqa: PLC0415  # an optional package

    builder = interpreter.InterpreterBuilder
    original = builder.set_grid_idx

    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        nx, ny, nz = map(int, self.grid_dim)
        original(self, nx - 1 - x, ny - 1 - y, nz - 1 - z)

    undo = _patched([(builder, "set_grid_idx", set_grid_idx)])
    try:
        yield
    finally:
        undo()
