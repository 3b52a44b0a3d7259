"""Correctness harness for KV-cache decoding with FlexAttention.

Data flows one way, from the top of this list to its end; a package imports from those above it.

``support``     files, progress, JSON, the environment: nothing about decoding
``isolation``   processes for work that may crash or hang, and work handed out to them
``case``        decode calls as plain values; the rule which slots a query attends
``inputs``      the tensors of a case, the same bits on every device
``decoding``    the fixed path, a library of its own: attention, block mask, KV cache
``oracle``      golden in float64, the rounding budget, the error in units of the budget
``interpreter`` torch's Triton kernels for a GPU, run on a CPU; the only one to change torch
``paths``       the implementations under test, by name; the only caller of torch.compile
``verdict``     one word for each path and case: ``judge``, the compile contract
``serving``     caches that are written: programs of a serving loop, their contract and judge
``strategies``  Hypothesis strategies that draw cases
``faults``      what goes wrong in practice, each planted in a model of a decode call
``diagnosis``   which fault explains a wrong output
``function``    a user's function: loaded, run in a process of its own, searched, asserted on
``auditing``    a model that decodes: which layer, step and slots are wrong, and why
``ledger``      how much of its budget each path used, as recorded
``issue233``    the bug report gpt-fast#233, answered claim by claim
``script``      standalone scripts that need torch alone
``hunting``     the compiled kernels searched by machine for what is wrong
``figures``     pictures of what was measured, on an HTML page
``benching``    times of a decode step, by the fixed path and by others, and of verdicts
``gate``        all checks worth running before a merge
``commands``    ``python -m harness``, one module for each subcommand

Importing the package imports neither torch nor Hypothesis, since its pytest plugin must be cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "DecodeCase": "harness.case",
    "CaseError": "harness.case",
    "Verdict": "harness.verdict",
    "judge": "harness.verdict",
    "PATHS": "harness.paths",
    "assert_decodes": "harness.function.testing",
    "assert_cached_decoding": "harness.auditing.testing",
    "audit": "harness.auditing.watch",
    "cache_machine": "harness.function.machine",
    "decode_cases": "harness.strategies.functions",
}

__all__ = [
    "PATHS",
    "CaseError",
    "DecodeCase",
    "Verdict",
    "assert_cached_decoding",
    "assert_decodes",
    "audit",
    "cache_machine",
    "decode_cases",
    "judge",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
