"""A judge of planted failures for a hunt, which runs in whatever process the hunt hands work to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

from harness.case import DecodeCase
from harness.function.outcome import Outcome
from harness.hunting.work import judge_cases, look_beside, make_small
from harness.strategies.factors import FACTORS, Value
from harness.verdict import Verdict

# The plain value of a factor, what the planted failures need, and another value. Other factors have
# their plain value alone.
_VARIED = {
    "slots": ("256", "200"),
    "sequences": ("1", "0"),
    "dtype": ("float32", "bfloat16", "float16"),
    "mask": ("causal", "window:70", "prefix:90"),
    "tables": ("made", "counts-expanded", "full-expanded"),
    "capture": ("positions", "number", "computed"),
    "options": ("none", "partition:64"),
}
# Names a folder in which each process that works leaves a file and, the first two, its life.
DEATHS = "FLEXDECODE_TEST_DEATHS"


def few_factors() -> dict[str, dict[str, Value]]:
    """The factors of a hunt, most of them with a single value: its pools are small."""
    return {
        name: {value: values[value] for value in _VARIED.get(name, list(values)[:1])}
        for name, values in FACTORS.items()
    }


def broken(case: DecodeCase, threads: int, device: str) -> Outcome:
    """One failure is in the geometry, one in two values of it, one in data; one is a refusal."""
    if case.capture == "computed":
        return Outcome.found(Verdict.ERROR, "InductorError: KeyError: 'computed'")
    if case.tables == "counts-expanded" and case.dtype == "bfloat16":
        return Outcome.found(Verdict.WRONG, "output at (0,) is 1, should be 2")
    if case.mask_kind.name == "prefix" and case.logits == "low":
        return Outcome.found(Verdict.NONFINITE, "3 of 4 elements")
    if case.options == "partition:64":
        return Outcome.found(Verdict.ERROR, "ValueError: PARTITION_SIZE must be 128")
    return Outcome(utilisation=0.1)


def _die() -> None:
    folder = os.environ.get(DEATHS)
    if folder is None:
        return
    (Path(folder) / f"{os.getpid()}").touch()
    for number in range(2):
        try:
            (Path(folder) / f"death-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        os._exit(1)


def judge_planted(*arguments: Any) -> dict[str, Any]:
    """``judge_cases`` by the planted judge."""
    _die()
    with mock.patch("harness.hunting.work.run", broken):
        return judge_cases(*arguments)


def small_planted(*arguments: Any) -> dict[str, Any]:
    """``make_small`` by the planted judge."""
    with mock.patch("harness.hunting.work.run", broken):
        return make_small(*arguments)


def beside_planted(*arguments: Any) -> dict[str, Any]:
    """``look_beside`` by the planted judge; no script is run."""
    with (
        mock.patch("harness.hunting.work.run", broken),
        mock.patch("harness.hunting.work._shows", return_value=True),
    ):
        return look_beside(*arguments)
