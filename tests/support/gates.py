"""Small gates for tests."""

from __future__ import annotations

import math

import pytest

from harness.gate import steps as gate
from harness.gate.steps import Gate
from harness.ledger.entries import Ledger
from harness.paths import PATHS
from harness.paths.compile import Recent
from tests.support import ROOT


def quick(
    monkeypatch: pytest.MonkeyPatch,
    *steps: str,
    ledger: Ledger | None = None,
    seconds: float = math.inf,
    changed: tuple[str, ...] = (),
    compiled: str = "S=40,pos=20,D=16",
) -> Gate:
    """A gate in this process over two paths, after these steps; by default without a limit of time,
    which a busy machine would reach."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(gate, "PATHS", {n: PATHS[n] for n in ("fixed", "sdpa-full")})
    monkeypatch.setattr(gate, "PROBED", ("S=40,pos=20,H=2,D=16,block=16",))
    monkeypatch.setattr(gate, "COMPILED", compiled)
    monkeypatch.setattr(gate, "LEAST_OVER", 3600.0)
    monkeypatch.setattr(gate, "PLANTED", ("no-query-offset",))
    # What a test compiles, with a fault or without, is its own.
    monkeypatch.setattr("harness.paths.path._COMPILED", Recent())
    run = Gate("cpu", seconds, 0, ledger, lambda text: None, isolated=False, changed=changed)
    with monkeypatch.context() as patch:
        patch.setattr(gate, "PLAN", {name: gate.PLAN[name] for name in steps})
        run.run()
    return run
