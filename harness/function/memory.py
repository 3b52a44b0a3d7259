"""The memory that Triton kernels may use: which bytes a call was given, and which were written."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

_ALLOCATIONS = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}


def _base(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _mark(memory: NDArray[np.bool_], tensor: torch.Tensor) -> None:
    """Mark the bytes of a tensor's elements, and none between them, in those of its storage."""
    size = tensor.element_size()
    shape = (*tensor.shape, size)
    strides = (*(size * stride for stride in tensor.stride()), 1)
    first = memory[tensor.storage_offset() * size :]
    np.lib.stride_tricks.as_strided(first, shape, strides)[...] = True


class Given:
    """The memory of the tensors that a call was given. Around the elements of a view lies memory
    of something larger, which nobody has passed."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._bytes: dict[int, NDArray[np.bool_]] = {}
        for tensor in tensors:
            memory = np.zeros(tensor.untyped_storage().nbytes(), dtype=bool)
            _mark(self._bytes.setdefault(_base(tensor), memory), tensor)

    def withheld(self, base: int, addresses: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which addresses in the storage at ``base`` are of no element that was given; none in a
        storage of the function's own."""
        if base not in self._bytes:
            return np.zeros(addresses.shape, dtype=bool)
        return ~self._bytes[base][addresses - base]


class Unwritten(TorchDispatchMode):
    """Which bytes of memory that was allocated inside have not been written yet.

    ``torch.empty`` and its like allocate; every other operation of torch writes the whole tensor
    that it returns or changes, and a view writes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[int, NDArray[np.bool_]] = {}
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
            base = _base(tensor)
            if name in _ALLOCATIONS:
                self.written[base] = np.zeros(tensor.untyped_storage().nbytes(), dtype=bool)
            elif alias is None:
                # New memory may lie where memory was that is gone.
                self.written.pop(base, None)
            elif alias.is_write and base in self.written:
                _mark(self.written[base], tensor)
        return result


@dataclass
class Region:
    """The memory of one tensor that a kernel was given, from its first element to its last:
    elements of ``size`` bytes from ``start`` to ``end``, in a storage that begins at ``base``."""

    name: str
    start: int
    end: int
    size: int
    base: int

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> Region:
        """The region of a tensor."""
        start, size, last = tensor.data_ptr(), tensor.element_size(), -1
        if tensor.numel():
            last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        return cls(name, start, start + (last + 1) * size, size, _base(tensor))

    # Made when they are needed: most tensors are only read.
    @functools.cached_property
    def stored(self) -> NDArray[np.int64]:
        """The number of the last program that stored to each element, 0 for none."""
        return np.zeros((self.end - self.start) // self.size, dtype=np.int64)

    @functools.cached_property
    def updated(self) -> NDArray[np.int64]:
        """The number of the last program that updated each element atomically, 0 for none."""
        return np.zeros((self.end - self.start) // self.size, dtype=np.int64)
