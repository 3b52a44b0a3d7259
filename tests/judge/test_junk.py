"""Junk in new memory, on which the check for unwritten output rests."""

import platform

import pytest
import torch

from harness.verdict.junk import junk_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not run: needs glibc")
@pytest.mark.parametrize("size", [64, 4096, 2**20])
def test_new_memory_holds_junk_within_and_not_after(size: int) -> None:
    """Every byte of a new tensor, small or large; the fill ends with the context."""
    with junk_memory("cpu"):
        assert (torch.empty(size, dtype=torch.uint8) == 0xFE).all()
    after = [torch.empty(size, dtype=torch.uint8) for _ in range(8)]
    assert not all((tensor == 0xFE).all() for tensor in after)
