"""What Triton's interpreter lacks: the functions of libdevice, and arithmetic of bfloat16.

libdevice is a library of NVIDIA's that no CPU has; in the interpreter its functions are stubs that
return None. Here they are NumPy's, in the dtype of their first argument, right to about one unit in
the last place, as libdevice's are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

Function = Callable[..., Any]
_NEAREST = interpreter._ir.ROUNDING_MODE.RTNE


def _rsqrt(x: NDArray[Any]) -> NDArray[Any]:
    return 1 / np.sqrt(x)


# Those that inductor puts out for a mask or a score; it knows more, and each other one raises.
_FUNCTIONS: dict[str, Function] = {
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "ceil": np.ceil,
    "copysign": np.copysign,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "floor": np.floor,
    "fmod": np.fmod,
    "hypot": np.hypot,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "nearbyint": np.rint,
    "pow": np.power,
    "rsqrt": _rsqrt,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
    "trunc": np.trunc,
}
_PREDICATES: dict[str, Function] = {"isinf": np.isinf, "isnan": np.isnan, "signbit": np.signbit}


def _lifted(function: Function, scalar: Any = None) -> Function:
    """A function of NumPy's arrays as one of Triton's tensors; ``scalar`` is the result's type."""

    def lifted(first: Any, *others: Any) -> Any:
        array = first.handle.data
        arguments = (getattr(getattr(x, "handle", x), "data", x) for x in others)
        with np.errstate(all="ignore"):
            result = function(array, *(np.asarray(x, array.dtype) for x in arguments))
        kind = first.type.scalar if scalar is None else scalar
        result = np.asarray(result, array.dtype if scalar is None else np.int32)
        whole = isinstance(first.type, tl.block_type)
        shaped = tl.block_type(kind, list(result.shape)) if whole else kind
        return tl.tensor(TensorHandle(result, kind), shaped)

    return lifted


def _absent(name: str) -> Function:
    def absent(*arguments: Any) -> Any:
        raise NotImplementedError(f"libdevice.{name} is not among what is interpreted")

    return absent


def libdevice(stubs: Any) -> dict[str, Function]:
    """A function in place of each public stub of the module: NumPy's, or one that raises."""
    names = [n for n, value in vars(stubs).items() if callable(value) and not n.startswith("_")]
    functions = {name: _absent(name) for name in names}
    functions |= {name: _lifted(function) for name, function in _FUNCTIONS.items()}
    return functions | {name: _lifted(f, tl.int32) for name, f in _PREDICATES.items()}


interpreted_dot = InterpreterBuilder.create_dot
_binary_op, _unary_op = InterpreterBuilder.binary_op, InterpreterBuilder.unary_op
_ternary_op = InterpreterBuilder.ternary_op
_convert = interpreter._convert_float


def create_dot(builder: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
    """``a @ b + d``, with bfloat16 operands widened first.

    The interpreter keeps bfloat16 as the integers of its bits, and multiplies those. A product of
    two bfloat16 numbers is exact in float32, in which a GPU adds them up as well.
    """
    return interpreted_dot(builder, _widened(a), _widened(b), d, precision, imprecise)


def _widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle(widened(handle.data), tl.float32)


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 numbers of bfloat16 bits: exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 numbers, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    nearest = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), nearest).reshape(np.shape(numbers))


def convert_float(numbers: Any, source: Any, target: Any, mode: Any) -> Any:
    """As the interpreter's, which cuts bfloat16 off where a GPU rounds it to the nearest."""
    if (source, target) == (tl.float32, tl.bfloat16) and mode in (None, _NEAREST):
        return rounded(numbers.view(np.float32))
    if (source, target) == (tl.bfloat16, tl.float32):
        return widened(numbers.view(np.uint16))
    return _convert(numbers, source, target, mode)


def _without_bfloat16(operation: Function) -> Function:
    """An elementwise operation of the interpreter that raises for bfloat16, on whose bits it would
    compute as on integers."""

    def checked(builder: Any, *arguments: Any) -> Any:
        handles = [x for x in arguments if isinstance(x, TensorHandle)]
        # Choosing between numbers computes nothing.
        chooses = any(x is np.where for x in arguments)
        if not chooses and any(handle.dtype.scalar == tl.bfloat16 for handle in handles):
            raise NotImplementedError("arithmetic in bfloat16 is not interpreted")
        return operation(builder, *arguments)

    return checked


binary_op, unary_op, ternary_op = map(_without_bfloat16, (_binary_op, _unary_op, _ternary_op))


@contextmanager
def with_bfloat16() -> Iterator[None]:
    """Within, the interpreter's bfloat16 is that of a GPU, or raises."""
    names = ("create_dot", "binary_op", "unary_op", "ternary_op")
    operations = {name: globals()[name] for name in names}
    with (
        mock.patch.multiple(InterpreterBuilder, **operations),
        mock.patch.object(interpreter, "_convert_float", convert_float),
    ):
        yield
