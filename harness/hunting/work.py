"""What a hunt has done elsewhere: cases judged, and a failure made small, each path in a process of
its own that may die.

The functions take and return plain values, so that any executor can run them, also on another
machine.
"""

from __future__ import annotations

import atexit
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.case import CaseError, DecodeCase
from harness.function.outcome import Outcome
from harness.function.shrink import SIZES, VALUES, shrink
from harness.function.spec import TargetError, TargetSpec
from harness.function.worker import Worker
from harness.hunting.failure import kernel, sign, stopped, told_by
from harness.interpreter import gpu
from harness.script.case_script import case_script
from harness.strategies.factors import FACTORS
from harness.support.scripts import Showing, end_scripts, run_script
from harness.verdict import Verdict

PATH = "full-cache"
_TIMEOUT = 240.0
_SCRIPT_TIMEOUT = 120.0
# A process that has compiled so many geometries is replaced, for the memory that they take.
_GEOMETRIES = 25
# Where as many cases of a geometry failed alike, the others would too; what does not compile does
# not for any.
_ENOUGH = 2
# So few that no call takes the split kernel.
_FEW_SLOTS = 256
# Fields that hold what a factor calls otherwise.
_FOLLOW = {
    "batch": "input_pos",
    "group": "heads",
    "kv_heads": "heads",
    "longer first": "earlier",
}

_closed = threading.Event()
_workers: dict[tuple[int, bool, int, str], tuple[Worker, set[object]]] = {}


@atexit.register
def close_workers() -> None:
    """End the processes of this one's workers and scripts, and take no more work."""
    _closed.set()
    end_scripts()
    while _workers:
        _workers.popitem()[1][0].close()


def _worker(case: DecodeCase, threads: int, device: str) -> Worker:
    """This thread's worker for a case, in a process with so many threads."""
    key = _key(case, threads, device)
    if key not in _workers:
        variables = {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        variables |= {} if case.cpp else gpu.environment()
        _workers[key] = Worker(TargetSpec(PATH, device), _TIMEOUT, variables), set()
    worker, geometries = _workers[key]
    geometries.add(case.geometry)
    if len(geometries) > _GEOMETRIES:
        geometries.clear()
        worker.fresh()
    return worker


def _key(case: DecodeCase, threads: int, device: str) -> tuple[int, bool, int, str]:
    return threading.get_ident(), case.cpp, threads, device


def run(case: DecodeCase, threads: int, device: str) -> Outcome:
    """Judge the path on a case; a worker that is gone is replaced once."""
    try:
        return _worker(case, threads, device).run(case)
    except TargetError:
        if _closed.is_set():
            raise
        _workers.pop(_key(case, threads, device))[0].close()
        return _worker(case, threads, device).run(case)


def judge_cases(cases: list[str], threads: int, device: str) -> dict[str, Any]:
    """The outcomes of cases of one geometry, and the seconds that they took; where the first ones
    all fail alike, of these alone."""
    start, outcomes = time.monotonic(), list[dict[str, Any]]()
    signs: list[str] = []
    for text in cases:
        outcome = run(DecodeCase.from_text(text), threads, device)
        outcomes.append(outcome.to_values())
        signs.append("" if outcome.verdict is Verdict.OK else sign(outcome))
        alike = bool(signs[0]) and len(set(signs)) == 1
        if alike and (len(signs) >= _ENOUGH or stopped(signs[0])):
            break
    return {"outcomes": outcomes, "seconds": time.monotonic() - start}


def make_small(
    text: str, threads: int, device: str, told: str, suspects: list[str], seconds: float
) -> dict[str, Any]:
    """A case that fails, as told, with as much about it plain as possible, within ``seconds``: all
    but one of the factors that are suspect, then all but these, then by halves. What it shows."""
    still = _Still(threads, device, told, seconds)
    case = DecodeCase.from_text(text)
    if threads > 1:
        # One thread is the simpler machine.
        still.threads = 1
        still.threads = 1 if still(case) else threads
    if case not in still.outcomes and not still(case):
        return {"again": False}
    case = _all_plain(_one_suspect(case, suspects, still), still)
    outcome = still.outcomes[case].to_values()
    return {"again": True, "case": str(case), "threads": still.threads, "outcome": outcome}


def look_beside(
    text: str, threads: int, device: str, told: str, refused: bool, seconds: float
) -> dict[str, Any]:
    """A case that fails, as told, with sizes and values made small within ``seconds``; what it
    shows, and what the same call does that is written or run otherwise, by name; and a script of
    it, unless it is refused, with whether that shows it."""
    still = _Still(threads, device, told, seconds)
    case = DecodeCase.from_text(text)
    if not still(case):
        return {}
    case = shrink(_small_sizes(case, still), still, (*VALUES, *SIZES))
    outcome = still.outcomes[case]
    if outcome.explicable:
        outcome = _worker(case, threads, device).diagnosed(case, outcome)
    beside = {n: str(run(other, threads, device).verdict) for n, other in _beside(case, device)}
    if threads == 1 and kernel(case, device) != "Triton":
        beside["2 threads"] = str(run(case, 2, device).verdict)
    found = {"case": str(case), "outcome": outcome.to_values(), "beside": beside}
    if refused:
        return found
    interpreted = not case.cpp
    where = "cuda" if interpreted else device
    script = case_script(case.replace(kernels="cpp") if interpreted else case, where)
    return found | {
        "script": script,
        "shows": None if interpreted else _shows(script, threads, outcome),
    }


class _Still:
    """Whether a smaller case fails as told, with so many threads; None once the time is up."""

    def __init__(self, threads: int, device: str, told: str, seconds: float) -> None:
        self.threads, self.device, self._told = threads, device, told
        self._end = time.monotonic() + seconds
        self.outcomes: dict[DecodeCase, Outcome] = {}

    def __call__(self, case: DecodeCase) -> bool | None:
        if time.monotonic() > self._end:
            return None
        outcome = run(case, self.threads, self.device)
        fails = outcome.verdict is not Verdict.OK and not outcome.invalid
        if fails and told_by(case, outcome) == self._told:
            self.outcomes[case] = outcome
            return True
        return False


def _changes(case: DecodeCase) -> list[dict[str, Any]]:
    """Changes that make one thing about a case plain, each."""
    names = (
        *("layers", "options", "capture", "table_size", "tables", "recipe", "views", "dynamic"),
        *("earlier", "query_layout", "value_layout", "layout", "score", "mask", "scale", "dtype"),
        *("block_size", "tail", "logits", "probe"),
    )
    changes: list[dict[str, Any]] = [{name: case.default(name)} for name in names]
    changes += [{"kernels": "cpp"}] if case.kernels == "avx2" else []
    changes += [{"heads": 1, "kv_heads": 1}, {"value_dim": case.head_dim}]
    changes = [c for c in changes if any(getattr(case, n) != value for n, value in c.items())]
    live = max(case.input_pos, default=-1)
    if case.batch > 1:
        changes.append({"input_pos": (live,)})
    if case.q_len > 1:
        changes.append({"q_len": 1})
    return changes


def _changed(case: DecodeCase, changes: list[dict[str, Any]], device: str) -> DecodeCase | None:
    """The case with all the changes, in the same kernel; None where there is no such case, or it is
    the same one."""
    try:
        changed = case.replace(**{name: value for one in changes for name, value in one.items()})
        if kernel(changed, device) == "split" != kernel(case, device):
            changed = _with_slots(changed, _FEW_SLOTS)
    except CaseError:
        return None
    return changed if changed != case else None


def _with_slots(case: DecodeCase, slots: int) -> DecodeCase:
    last = slots - case.q_len
    return case.replace(cache_len=slots, input_pos=tuple(min(p, last) for p in case.input_pos))


def _one_suspect(case: DecodeCase, suspects: list[str], still: _Still) -> DecodeCase:
    """The case with everything plain but one of the suspect factors, or but all of these, where
    that fails; or itself."""
    changes = _changes(case)
    together = [suspects] if len(suspects) > 1 else []
    for some in [*([name] for name in suspects), *together]:
        names = {field for name in some for value in FACTORS[name].values() for field in value}
        fields = names | {_FOLLOW[name] for name in names & _FOLLOW.keys()}
        plain = _changed(
            case, [change for change in changes if not fields & change.keys()], still.device
        )
        if plain is not None and still(plain):
            return plain
    return case


def _all_plain(
    case: DecodeCase, still: _Still, changes: list[dict[str, Any]] | None = None
) -> DecodeCase:
    """The case with as many of the changes as leave it failing: all of them at once, or else of
    each half as many as that allows (Zeller and Hildebrandt, "Simplifying and isolating
    failure-inducing input", 2002)."""
    changes = _changes(case) if changes is None else changes
    if not changes:
        return case
    plain = _changed(case, changes, still.device)
    if plain is not None and still(plain):
        return plain
    if len(changes) == 1:
        return case
    half = len(changes) // 2
    case = _all_plain(case, still, changes[:half])
    return _all_plain(case, still, changes[half:])


def _small_sizes(case: DecodeCase, still: _Still) -> DecodeCase:
    """The case with every size small at once, where it fails so; each size by itself takes as many
    compilations."""
    heads = {"heads": case.heads // case.kv_heads, "kv_heads": 1}
    for dim in (1, 16):
        small = _changed(case, [heads, {"head_dim": dim, "value_dim": dim}], still.device)
        if small is not None and still(small):
            return small
    return case


def _beside(case: DecodeCase, device: str) -> Iterator[tuple[str, DecodeCase]]:
    """The same call eagerly, in the general kernel, with shapes that are dynamic or static, and, on
    a CPU, in another compiler's kernels and with other vectors; whatever there is of these."""
    triton = kernel(case, device) == "Triton"
    eager = dict(mode="eager", kernels="cpp", dynamic=False, earlier=(), recipe=_eager(case))
    others: dict[str, dict[str, Any]] = {
        "eager": eager,
        "static" if case.dynamic else "dynamic": {"dynamic": not case.dynamic},
        "general kernel": {"options": "general" if triton else f"partition:{2**20}"},
    }
    if not case.cpp:
        others["C++"] = {"kernels": "cpp"}
    elif device == "cpu":
        others["Triton"] = {"kernels": "triton"}
        other = "cpp" if case.kernels == "avx2" else "avx2"
        others["AVX2" if other == "avx2" else "the machine's vectors"] = {"kernels": other}
    for name, changes in others.items():
        if name == "Triton" and gpu.missing():
            continue
        try:
            changed = case.replace(**changes)
        except CaseError:
            continue
        if changed != case:
            yield name, changed


def _eager(case: DecodeCase) -> str:
    return "fresh" if case.recipe == "compiled" else case.recipe


def _shows(script: str, threads: int, outcome: Outcome) -> bool | None:
    """Whether a script shows a failure; None where that is not known. A failure that is an error
    shows as one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "script.py"
        file.write_text(script, encoding="utf-8")
        variables = {"OMP_NUM_THREADS": str(threads)}
        ran = run_script(file, seconds=_SCRIPT_TIMEOUT, folder=Path(folder), variables=variables)
    if outcome.verdict is Verdict.ERROR and ran.raised:
        return ran.raised.split(":")[0].split(".")[-1] in outcome.findings[0].evidence
    return {Showing.SHOWS: True, Showing.GONE: False}.get(ran.showing)
