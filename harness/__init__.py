"""Correctness harness for KV-cache decoding with FlexAttention.

Data flows one way:

    case -> inputs -+-> paths (compile) -> actual ----+
                    +-> oracle (attendable) -> golden -+-> error, budget -> verdict -> report

``case``        what is computed: a frozen dataclass of plain values, with a text id and JSON
``attendable``  which slots a query may attend, from the position arithmetic alone
``inputs``      the tensors of a case, the same bits on every device
``masks``       mask_mods, score_mods and block masks that the paths hand to FlexAttention
``paths``       the implementations under test, by name; ``calls`` is what they do
``decode``      the fixed path: static shapes, a ``block_table`` from the positions, ``kv_cache``
``compile``     the only caller of torch.compile; counts graphs, never falls back
``oracle``      float64 attention over the attendable slots, streamed; the judge of all paths
``budget``      the error that rounding alone can explain, elementwise
``error``       how far an output is from golden, and where
``layouts``     how a cache lies in memory
``junk``        junk in newly allocated memory
``verdict``     one word per path and case, with its evidence
``relations``   what must come out if the inputs change like this
``strategies``  Hypothesis draws cases; ``kept`` ones run first; ``known_failures`` are left out
``repro``       the report gpt-fast#233, run as written, or any case on all paths
``claims``      what becomes of each claim of that report
``attention``   a decode call written out densely, so that a step can be changed; ``faults`` are
                such changes, ``mutants`` the paths with one planted, ``kill`` the matrix
``contract``    what a path promises beside its numbers: graphs, no state between calls
``probes``      needles, equal weights, integers: inputs that need no tolerance
``diagnosis``   the fault behind a wrong output: its ``explanation`` against ``observation``s
``ledger``      how much of its budget each path used on the ``ledger_cases``; ``recording`` it
``script``      a standalone script for a case, stdlib and torch alone; ``target_script`` for a
                user's function, ``script_ends`` where it does not return; of both,
                ``script_inputs``, ``script_oracle`` and ``script_text``
``scope``       which cases a function of a user's own takes; ``supported`` draws them
``target``      that function as a path; ``trial`` runs it on a case, ``worker`` in a process of
                its own, with the ``settings`` that it must leave alone
``check``       the search for a case on which it fails; ``shrink`` makes that small
``gate``        all of it before a merge; ``gate_check`` is one thing checked, ``gate_report`` text
``recorded``    results kept in files: the tolerance ledger, the kill matrix, others' rules
``measured``    the numbers of the report's ``figures``; ``captions`` puts them into words,
                ``plots`` and ``heatmaps`` draw them, ``page`` is the HTML, ``publish`` the files
``testing``     assertions that say how to see a failure again; ``pytest_plugin`` keeps it
``report``      text for a terminal; ``check_report`` of a check
``cli``         ``python -m harness``; ``commands`` are its subcommands, ``console`` what they share

The package imports nothing heavy by itself: a test plugin must not pay for torch.
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
    "assert_decodes": "harness.testing",
    "decode_cases": "harness.supported",
}

__all__ = [
    "PATHS",
    "CaseError",
    "DecodeCase",
    "Verdict",
    "assert_decodes",
    "decode_cases",
    "judge",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
