"""Triton kernels watched in Triton's interpreter: what they load and store, and in which order.

Triton's interpreter runs the programs of a grid one after the other on the CPU, at the addresses
of the tensors themselves. Every load and store goes through its builder, so that is where it is
seen whether an address lies in a tensor that was passed, whether somebody has written there, and
whether two programs store to one place. A GPU shows none of that, or only now and then.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from harness.function.memory import Given, Region, Unwritten
from harness.verdict import Finding, Verdict
from harness.verdict.judgement import Violation

_Patches = list[tuple[Any, str, Any]]
# The mask of an operation that has none.
_EVERYWHERE = SimpleNamespace(data=np.array(True))


class Twice(NamedTuple):
    """An element to which another program has stored before: its tensor, where in it and in
    memory, and the bits that are there."""

    name: str
    place: int
    address: int
    bits: bytes

    @property
    def now(self) -> bytes:
        """The bits that are there now."""
        return ctypes.string_at(self.address, len(self.bits))


@dataclass
class Launch:
    """One launch of a kernel: the tensors that it was given, by address. ``note`` gets what is
    worth a look and is no finding."""

    kernel: str
    regions: list[Region]
    given: Given
    unwritten: Unwritten
    note: Callable[[str], None]
    # The addresses that each program has updated atomically so far.
    _atomics: dict[int, set[int]] = field(default_factory=dict)

    def check(self, what: str, pointers: Any, mask: Any, size: int, program: int) -> list[Twice]:
        """See whether a load or store may be made; of a store, give the elements to which another
        program has stored, which ``settle`` judges once it is made.

        Args:
            what: ``loads`` or ``stores``; of atomic operations ``updates``, or ``sets`` for one
                that does not read.
            pointers: addresses, of any shape; where ``mask`` is False they are not used.
            size: bytes of an element.
            program: the number of the program of the grid, from 1 on.

        Raises:
            Violation: with the verdict OUT_OF_BOUNDS, UNINITIALISED or RACE.
        """
        addresses = np.asarray(pointers)[np.asarray(mask, dtype=bool)].astype(np.int64).ravel()
        if what in ("updates", "sets"):
            self._atomics.setdefault(program, set()).update(addresses.tolist())
        left = np.ones(addresses.shape, dtype=bool)
        twice: list[Twice] = []
        for region in self.regions:
            inside = left & (addresses >= region.start) & (addresses + size <= region.end)
            if inside.any():
                left &= ~inside
                twice += self._inside(what, region, addresses[inside], size, program)
        if left.any():
            self._stop(Verdict.OUT_OF_BOUNDS, f"{what} {self._place(int(addresses[left][0]))}")
        return twice

    def settle(self, twice: list[Twice]) -> None:
        """Judge elements to which two programs have stored: a race where the bits differ. The same
        bits harm nobody, and are noted.

        Raises:
            Violation: with the verdict RACE.
        """
        for element in twice:
            if element.now != element.bits:
                text = (
                    f"stores to element {element.place} of {element.name}, as another program did"
                )
                self._stop(Verdict.RACE, text)
        if twice:
            what = f"stores to {twice[0].name} what another program stored there, the same bits"
            self.note(f"kernel {self.kernel} {what} ({_line()})")

    def _inside(
        self, what: str, region: Region, addresses: Any, size: int, program: int
    ) -> Iterator[Twice]:
        index = (addresses - region.start) // region.size
        withheld = self.given.withheld(region.base, addresses)
        if withheld.any():
            text = f"{what} element {int(index[withheld][0])} of {region.name}, in a gap of a view"
            self._stop(Verdict.OUT_OF_BOUNDS, f"{text}: memory of no tensor that was passed")
        written = self.unwritten.written.get(region.base)
        if written is not None:
            at = addresses - region.base
            if what in ("stores", "sets"):
                for byte in range(size):
                    written[at + byte] = True
            elif not written[at].all():
                first = int(index[~written[at]][0])
                text = f"{what} element {first} of {region.name}, which nobody wrote"
                self._stop(Verdict.UNINITIALISED, text)
        if what == "stores":
            for first in index[self._clash(region.updated, index, program)][:1]:
                text = f"stores to element {first} of {region.name}, which another program updates"
                self._stop(Verdict.RACE, text)
            again = self._clash(region.stored, index, program)
            for place, address in zip(
                index[again].tolist(), addresses[again].tolist(), strict=True
            ):
                yield Twice(region.name, place, address, ctypes.string_at(address, size))
            region.stored[index] = program
        elif what != "loads":
            for first in index[self._clash(region.stored, index, program)][:1]:
                text = f"{what} element {first} of {region.name}, to which another program stores"
                self._stop(Verdict.RACE, text)
            region.updated[index] = program

    def _clash(self, last: NDArray[np.int64], index: Any, program: int) -> NDArray[np.bool_]:
        """Which elements were used by another program, the ``last`` one of each, without an order
        between the two."""
        others = last[index]
        clash = (others != 0) & (others != program)
        for other in np.unique(others[clash]).tolist():
            # Two programs that update one place atomically, such as a lock or a counter, may know
            # from it which of them comes first.
            if not self._atomics.get(other, set()).isdisjoint(self._atomics.get(program, set())):
                clash &= others != other
        return clash

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
def sanitized(
    given: Iterable[torch.Tensor], note: Callable[[str], None] = lambda text: None
) -> Iterator[None]:
    """Within a call that was ``given`` tensors, what a Triton kernel does that no kernel may do
    raises; ``note`` gets what is worth a look and is no finding.

    Raises:
        Violation: where a kernel loads or stores outside the tensors that it was given, or between
            the elements of those that the call was given (OUT_OF_BOUNDS), loads memory that nobody
            wrote (UNINITIALISED), or stores to an element to which another program of its grid has
            stored other bits, or that it has updated (RACE).
    """
    from triton.runtime import interpreter  # noqa: PLC0415  # an optional package

    from harness.interpreter.arithmetic import with_narrow_floats  # noqa: PLC0415  # needs it too
    from harness.interpreter.overhead import without_overhead  # noqa: PLC0415  # and so does this

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    memory, unwritten, launches = Given(given), Unwritten(), list[Launch]()

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        regions = [Region.of(*named) for named in _tensors(self.arg_names, arguments, keywords)]
        launches.append(Launch(self.fn.__name__, regions, memory, unwritten, note))
        unwritten.launching = True
        try:
            return original["__call__"](self, *arguments, **keywords)
        finally:
            launches.pop()
            unwritten.launching = False

    def see(self: Any, what: str, pointers: Any, mask: Any) -> list[Twice]:
        """Check what the program that runs now does, where a kernel was launched here."""
        if not launches:
            return []
        (x, y, z), (nx, ny, _) = self.grid_idx, self.grid_dim
        program = 1 + int(x) + int(nx) * (int(y) + int(ny) * int(z))
        size = max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
        where = np.broadcast_to(mask.data, pointers.data.shape)
        return launches[-1].check(what, pointers.data, where, size, program)

    def load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        see(self, "loads", pointers, mask)
        return original["create_masked_load"](self, pointers, mask, *rest)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        twice = see(self, "stores", pointers, mask)
        result = original["create_masked_store"](self, pointers, value, mask, *rest)
        if twice:
            launches[-1].settle(twice)
        return result

    def atomic_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        see(self, "sets", pointers, mask)
        return original["create_masked_store"](self, pointers, value, mask, None)

    def update(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        see(self, "updates", pointers, mask)
        return original["create_atomic_rmw"](self, operation, pointers, value, mask, *rest)

    def exchange(self: Any, pointers: Any, *rest: Any) -> Any:
        see(self, "updates", pointers, _EVERYWHERE)
        return original["create_atomic_cas"](self, pointers, *rest)

    patches: _Patches = [
        (executor, "__call__", call),
        (builder, "create_masked_load", load),
        (builder, "create_masked_store", store),
        (builder, "create_atomic_store", atomic_store),
        (builder, "create_atomic_rmw", update),
        (builder, "create_atomic_cas", exchange),
    ]
    original = {name: getattr(owner, name) for owner, name, _ in patches}
    undo = _patched(patches)
    try:
        with with_narrow_floats(), without_overhead(), unwritten:
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
