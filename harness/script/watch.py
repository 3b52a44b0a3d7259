"""Statements of a standalone script that watch Triton kernels in Triton's interpreter.

They see what ``harness.function.sanitizer`` sees of one verdict, and end the script with status 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.verdict import Verdict

INTERPRET = 'os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported'

_LAUNCH = """
from triton.runtime import interpreter

builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
launched, loaded, stored = (
    executor.__call__,
    builder.create_masked_load,
    builder.create_masked_store,
)
tensors, used, atomics = {}, {}, {}


def launch(self, *args, **kwargs):
    for seen in (tensors, used, atomics):
        seen.clear()
    for name, x in [*zip(self.arg_names, args), *kwargs.items()]:
        if isinstance(x, torch.Tensor) and x.numel():
            last = sum((n - 1) * s for n, s in zip(x.shape, x.stride()))
            end = x.data_ptr() + (last + 1) * x.element_size()
            tensors[name] = x.data_ptr(), end
    result = launched(self, *args, **kwargs)
    tensors.clear()
    return result


def load(self, pointers, mask, *rest):
    see(self, "loads", pointers, mask)
    return loaded(self, pointers, mask, *rest)


def store(self, pointers, value, mask, *rest):
    see(self, "stores", pointers, mask)
    return stored(self, pointers, value, mask, *rest)


def see(self, what, pointers, mask):
    size = pointers.get_element_ty().primitive_bitwidth // 8
    chosen = pointers.data > 0
    if mask is not None:
        chosen = chosen & mask.data
    for at in pointers.data[chosen].ravel().tolist():
        at = int(at)
"""
_SEEN = {
    Verdict.OUT_OF_BOUNDS: """
        if not any(a <= at and at + size <= b for a, b in tensors.values()):
            sys.exit(f"program {self.grid_idx} {what} outside of {', '.join(tensors)}")
""",
    Verdict.RACE: """
        if what == "loads":
            continue
        if what == "updates":
            atomics.setdefault(self.grid_idx, set()).add(at)
        for other, did in used.setdefault(at, {}).items():
            # Programs that update one place, such as a lock, may know their order.
            known = atomics.get(other, set()) & atomics.get(self.grid_idx, set())
            if other == self.grid_idx or "stores" not in (what, did) or known:
                continue
            if what == did:
                twice.append((other, at, ctypes.string_at(at, size)))
            else:
                sys.exit(f"program {other} {did} and {self.grid_idx} {what}: one place")
        used[at][self.grid_idx] = what
""",
    Verdict.UNINITIALISED: """
        for base, written in unwritten.items():
            if base <= at < base + len(written):
                if what == "loads" and not all(written[at - base :][:size]):
                    sys.exit(f"program {self.grid_idx} loads what nobody wrote")
                written[at - base : at - base + size] = [True] * size
""",
}
_GAPS = """
        for buffer, held in handed.items():
            if buffer[0] <= at < buffer[1] and at not in held:
                sys.exit(f"program {self.grid_idx} {what} in a gap of a view")
"""
_ATOMIC = """


def update(self, operation, pointers, value, mask, *rest):
    see(self, "updates", pointers, mask)
    return updated(self, operation, pointers, value, mask, *rest)


def exchange(self, pointers, *rest):
    see(self, "updates", pointers, None)
    return exchanged(self, pointers, *rest)


updated, exchanged = builder.create_atomic_rmw, builder.create_atomic_cas
builder.create_atomic_rmw, builder.create_atomic_cas = update, exchange
"""
# Two stores of the same bits to one place are no race.
_TWICE = """twice = []


def compared(self, *args):
    twice.clear()
    store(self, *args)
    for other, at, bits in twice:
        if ctypes.string_at(at, len(bits)) != bits:
            sys.exit(f"programs {other} and {self.grid_idx} store unlike bits")


builder.create_masked_store = compared
"""
_HANDED = """
handed = {}


def hand(*given):
    handed.clear()
    for x in given:
        memory, size = x.untyped_storage(), x.element_size()
        index = torch.arange(memory.nbytes() // size)
        index = index.as_strided(x.shape, x.stride(), x.storage_offset()).flatten()
        place = memory.data_ptr(), memory.data_ptr() + memory.nbytes()
        handed.setdefault(place, set()).update((place[0] + size * index).tolist())


"""
_PATCH = """
executor.__call__ = launch
builder.create_masked_load, builder.create_masked_store = load, store
"""
_ALLOCATIONS = """
unwritten = {}


class Unwritten(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        x = func(*args, **(kwargs or {}))
        if isinstance(x, torch.Tensor) and not tensors:
            memory = x.untyped_storage()
            alias = func._schema.returns[0].alias_info
            if "empty" in func.overloadpacket.__name__:
                unwritten[memory.data_ptr()] = [False] * memory.nbytes()
            elif alias is None:
                unwritten.pop(memory.data_ptr(), None)
            elif alias.is_write and memory.data_ptr() in unwritten:
                size = x.element_size()
                index = torch.arange(memory.nbytes() // size)
                index = index.as_strided(x.shape, x.stride(), x.storage_offset())
                for i in (size * index.flatten()).tolist():
                    unwritten[memory.data_ptr()][i : i + size] = [True] * size
        return x


"""


WATCHED = tuple(_SEEN)
_BACKWARDS = """
forwards = builder.set_grid_idx
builder.set_grid_idx = lambda self, *at: forwards(
    self, *(n - 1 - i for n, i in zip(self.grid_dim, at))
)
"""
_REVERSE = (
    "from triton.runtime import interpreter",
    "",
    "builder = interpreter.InterpreterBuilder",
)


def in_reverse() -> list[str]:
    """One more call, with the programs of each grid from the last to the first."""
    call = 'again["the programs of each grid in reverse order"] = call(key, value).cpu().clone()'
    return [*_REVERSE, *_BACKWARDS.strip("\n").splitlines(), call]


def watching(verdict: Verdict, *, gaps: bool = False) -> Iterator[str]:
    """Statements after which a kernel that deserves the verdict ends the script; with ``gaps``,
    where a call says by ``hand`` what it was given, between elements of that too."""
    seen = _SEEN[verdict].strip("\n") + (_GAPS.rstrip("\n") if gaps else "")
    text = "".join((_LAUNCH.strip("\n"), "\n", seen, "\n\n\n", _PATCH.strip("\n")))
    if verdict is Verdict.UNINITIALISED:
        text += _ALLOCATIONS
    if verdict is Verdict.RACE:
        text += _ATOMIC + _TWICE
    if gaps:
        text += _HANDED
    yield from text.splitlines()


def watched_call(verdict: Verdict) -> Iterator[str]:
    """The call, and what is said where nothing was seen."""
    if verdict is Verdict.UNINITIALISED:
        yield "with Unwritten():"
        yield "    call(key, value)"
    else:
        yield "call(key, value)"
    if verdict is Verdict.RACE:
        yield from _BACKWARDS.strip("\n").splitlines()
        yield "call(key, value)  # the programs of each grid in reverse order"
    yield 'print("nothing was seen")'
