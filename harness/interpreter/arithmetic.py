"""What Triton's interpreter lacks: the functions of libdevice, and arithmetic of 16 bits.

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
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, ScanOps, TensorHandle

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
_sum, _extreme, _cumsum = ReduceOps.sum, ReduceOps.min_max, ScanOps.cumsum


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


# Rounded once, as a GPU rounds them: the result in float32, which has more than twice the digits,
# rounded again to bfloat16 is the result rounded at once (Figueroa, "When is double rounding
# innocuous?", 1995).
_ROUNDED = (np.add, np.subtract, np.multiply, np.divide)
_EXACT = (np.minimum, np.maximum, np.fmin, np.fmax, np.clip, np.negative, np.abs)
_COMPARED = (
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
    np.equal,
    np.not_equal,
)


def _is_bfloat16(handle: Any) -> bool:
    # Its bits are kept as uint16, for which an array is asked sooner than for its Triton type.
    return bool(handle.data.dtype == np.uint16 and handle.dtype.scalar == tl.bfloat16)


def _in_bfloat16(operation: Function) -> Function:
    """An elementwise operation of the interpreter, with bfloat16 for what it is; the interpreter
    computes on its bits as on integers. What no GPU has in bfloat16 raises."""

    def computed(builder: Any, *arguments: Any) -> Any:
        handles = [x for x in arguments if isinstance(x, TensorHandle)]
        function = next(x for x in arguments if not isinstance(x, TensorHandle))
        # Choosing between numbers computes nothing.
        if function is np.where or not any(map(_is_bfloat16, handles)):
            return operation(builder, *arguments)
        wide = (_widened(x) if isinstance(x, TensorHandle) else x for x in arguments)
        if function in _COMPARED:
            return operation(builder, *wide)
        if function not in _ROUNDED + _EXACT:
            name = getattr(function, "__name__", function)
            raise NotImplementedError(f"{name} in bfloat16 is not interpreted")
        return TensorHandle(rounded(operation(builder, *wide).data), tl.bfloat16)

    return computed


binary_op, unary_op, ternary_op = map(_in_bfloat16, (_binary_op, _unary_op, _ternary_op))


def reduced_sum(reduction: Any, given: Any) -> Any:
    """``tl.sum``; of numbers of 16 bits, rounded after each addition.

    A GPU adds them in their own dtype, in an order that the compiler chooses; here it is a tree,
    which few orders beat. NumPy adds float16 in float32, and bfloat16 not at all.
    """
    kind = given.dtype.scalar
    if kind not in (tl.bfloat16, tl.float16):
        return _sum(reduction, given)
    terms = _floats(given.handle.data, kind)
    shape, axis = terms.shape, reduction.axis
    terms = terms.reshape(-1) if axis is None else np.moveaxis(terms, axis, 0)
    while len(terms) > 1:
        # A length of Triton's tensors is a power of two.
        terms = _floats(_stored(terms[0::2] + terms[1::2], kind), kind)
    total = terms[0]
    if reduction.keep_dims:
        total = total.reshape([1] * len(shape)) if axis is None else np.expand_dims(total, axis)
    return reduction.to_tensor(_stored(total, kind), kind)


def reduced_extreme(reduction: Any, given: Any, *functions: Any, **named: Any) -> Any:
    """``tl.max``, ``tl.argmin`` and their like, which compare bfloat16 as numbers."""
    first = given[0] if isinstance(given, tuple) else given
    if first.dtype.scalar != tl.bfloat16:
        return _extreme(reduction, given, *functions, **named)
    wide = reduction.to_tensor(widened(first.handle.data), tl.float32)
    result = _extreme(reduction, wide, *functions, **named)

    def narrow(tensor: Any) -> Any:
        if tensor.dtype.scalar != tl.float32:
            return tensor
        return reduction.to_tensor(rounded(tensor.handle.data).reshape(tensor.shape), tl.bfloat16)

    return tuple(map(narrow, result)) if isinstance(result, tuple) else narrow(result)


def scanned_sum(scan: Any, given: Any) -> Any:
    """``tl.cumsum``, and an error for bfloat16."""
    if given.dtype.scalar == tl.bfloat16:
        raise NotImplementedError("cumsum in bfloat16 is not interpreted")
    return _cumsum(scan, given)


def _floats(stored: NDArray[Any], kind: Any) -> NDArray[np.float32]:
    return widened(stored) if kind == tl.bfloat16 else stored.astype(np.float32)


def _stored(numbers: NDArray[np.float32], kind: Any) -> NDArray[Any]:
    return rounded(numbers) if kind == tl.bfloat16 else numbers.astype(np.float16)


@contextmanager
def with_narrow_floats() -> Iterator[None]:
    """Within, bfloat16 and sums of float16 are a GPU's, or raise."""
    names = ("create_dot", "binary_op", "unary_op", "ternary_op")
    operations = {name: globals()[name] for name in names}
    with (
        mock.patch.multiple(InterpreterBuilder, **operations),
        mock.patch.object(interpreter, "_convert_float", convert_float),
        mock.patch.multiple(ReduceOps, sum=reduced_sum, min_max=reduced_extreme),
        mock.patch.object(ScanOps, "cumsum", scanned_sum),
    ):
        yield
