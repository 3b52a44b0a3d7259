"""Checksums of tensors, to see whether large ones were changed without a copy to compare with."""

from __future__ import annotations

import ctypes
import zlib

from torch import Tensor


def checksum(tensor: Tensor) -> int:
    """CRC-32 of all memory that a tensor on the CPU lies in, also of what is outside of its view.

    It shows any change within 4 bytes, and any other but for one in 2^32."""
    memory = tensor.untyped_storage()
    return zlib.crc32((ctypes.c_char * memory.nbytes()).from_address(memory.data_ptr()))
