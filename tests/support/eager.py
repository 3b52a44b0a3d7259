"""Eager flex_attention with and without dynamo around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch.nn.attention.flex_attention as flex_module


@contextmanager
def tracing(wanted: bool) -> Iterator[None]:
    """Whether eager flex_attention is traced, by torch's own switch for debugging.

    Tracing each drawn geometry would take nine tenths of the time and, as
    ``test_tracing_changes_no_bit`` shows, changes nothing.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", not wanted)
        yield
