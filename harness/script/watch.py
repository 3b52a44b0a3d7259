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
tensors, writers = {}, {}


def launch(self, *args, **kwargs):
    tensors.clear()
    writers.clear()
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
    for at in pointers.data[mask.data & (pointers.data > 0)].ravel().tolist():
        at = int(at)
"""
_SEEN = {
    Verdict.OUT_OF_BOUNDS: """
        if not any(a <= at and at + size <= b for a, b in tensors.values()):
            sys.exit(f"program {self.grid_idx} {what} outside of {', '.join(tensors)}")
""",
    Verdict.RACE: """
        if what == "stores" and writers.setdefault(at, self.grid_idx) != self.grid_idx:
            sys.exit(f"programs {writers[at]} and {self.grid_idx} store to one place")
""",
    Verdict.UNINITIALISED: """
        for base, written in unwritten.items():
            if base <= at < base + len(written):
                if what == "loads" and not all(written[at - base :][:size]):
                    sys.exit(f"program {self.grid_idx} loads what nobody wrote")
                written[at - base : at - base + size] = [True] * size
""",
}
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
            elif alias is None or alias.is_write:
                unwritten.pop(memory.data_ptr(), None)
        return x


"""


WATCHED = tuple(_SEEN)
_REVERSE = """
from triton.runtime import interpreter

builder = interpreter.InterpreterBuilder
forwards = builder.set_grid_idx
builder.set_grid_idx = lambda self, *at: forwards(
    self, *(n - 1 - i for n, i in zip(self.grid_dim, at))
)
again["the programs of each grid in reverse order"] = call(key, value).cpu().clone()
"""


def in_reverse() -> list[str]:
    """One more call, with the programs of each grid from the last to the first."""
    return _REVERSE.strip("\n").splitlines()


def watching(verdict: Verdict) -> Iterator[str]:
    """Statements after which a kernel that deserves the verdict ends the script."""
    parts = _LAUNCH.strip("\n"), "\n", _SEEN[verdict].strip("\n"), "\n\n\n", _PATCH.strip("\n")
    text = "".join(parts)
    if verdict is Verdict.UNINITIALISED:
        text += _ALLOCATIONS
    yield from text.splitlines()


def watched_call(verdict: Verdict) -> Iterator[str]:
    """The call, and what is said where nothing was seen."""
    if verdict is Verdict.UNINITIALISED:
        yield "with Unwritten():"
        yield "    call(key, value)"
    else:
        yield "call(key, value)"
    yield 'print("nothing was seen")'
