"""The known failures of torch in a gate: the scripts of FINDINGS.md, which say whether each is
still there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from harness.gate.item import TIMEOUT, Item, Step
from harness.interpreter.gpu import missing
from harness.paths.compile import why_not
from harness.support import extras
from harness.support.scripts import Showing, run_script
from harness.verdict import Verdict

SCRIPTS = Path("fixtures") / "repro"
# Findings in Triton kernels and in models, whose scripts need Triton, or the model's package.
_TRITON, _MODEL = "flextriton-", "model-"
_LEAST = 30.0  # seconds that a script gets where the step has less
_NO_TIME = "no time left for it"


def known_failures(step: Step, device: str, seed: int) -> Iterator[Item]:
    """Run the scripts; they are about torch, so that those left out leave the run complete. One
    that cannot run, or hangs, is red: it says nothing about its finding."""
    scripts = sorted(SCRIPTS.glob("*/script.py"))
    # Another seed begins with another script.
    first = seed % max(len(scripts), 1)
    for script in scripts[first:] + scripts[:first]:
        name = script.parent.name
        if reason := _not_here(name, device):
            yield Item(name, not_run=reason)
        elif step.counted and not step.left:
            yield Item(name, not_run=_NO_TIME)
        else:
            step.doing = name
            item = _item(name, script, min(TIMEOUT, max(step.left, _LEAST)))
            step.counted += not item.not_run
            yield item


def _not_here(name: str, device: str) -> str | None:
    if device != "cpu":
        return "a finding on the CPU"
    if name.startswith(_TRITON):
        return missing()
    if name.startswith(_MODEL):
        return extras.missing("transformers")
    return why_not("cpu")


def _item(name: str, script: Path, seconds: float) -> Item:
    start = time.monotonic()
    ran = run_script(script, seconds=seconds)
    took = time.monotonic() - start
    if ran.showing is Showing.SHOWS:
        return Item(name, evidence="still there", seconds=took)
    if ran.showing is Showing.GONE:
        fixed = "FIXED in this torch: take it out of FINDINGS.md and known_failures.py"
        return Item(name, evidence=fixed, notice=True, seconds=took)
    repro = f"python {script}"
    if ran.showing is Showing.BROKEN:
        says = f": {ran.says}" if ran.says else ""
        text = f"its script could not run: it ended with {ran.ended}{says}"
        return Item(name, Verdict.ERROR, text, repro=repro, seconds=took)
    if seconds < TIMEOUT:
        return Item(name, not_run=_NO_TIME, seconds=took)
    text = f"its script hangs: it did not end within {seconds:g} s"
    return Item(name, Verdict.TIMEOUT, text, repro=repro, seconds=took)
