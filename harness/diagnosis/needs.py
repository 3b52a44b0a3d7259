"""What a fault needs to show: options of a failing case, each taken away alone, or other calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from harness.case import CaseError, DecodeCase
from harness.diagnosis.observation import Observation, Observer, equal, observe
from harness.faults import FaultKind

# What the fault may not depend on without another kernel or another path, or that is no option.
_KEPT = {
    "cache_len",
    "input_pos",
    "heads",
    "head_dim",
    "value_dim",
    "mode",
    "kernels",
    "dynamic",
    "seed",
}


def without(case: DecodeCase) -> Iterator[tuple[str, DecodeCase]]:
    """Each option that the case has, as it is written, and the case without it."""
    if case.batch > 1:
        yield f"B={case.batch}", case.replace(input_pos=(max(case.input_pos),))
    for field in dataclasses.fields(case):
        value = getattr(case, field.name)
        plain = {"kv_heads": case.heads}.get(field.name, field.default)
        if field.name in _KEPT or value == plain:
            continue
        text = f"{field.metadata['key']}={field.metadata['type'].format(value)}"
        try:
            yield text, case.replace(**{field.name: plain})
        except CaseError:
            continue


def needs(observer: Observer, case: DecodeCase, kind: FaultKind) -> Iterator[str]:
    """A sentence on the options without any one of which the case comes out right; none where it
    has no options. Eager cases alone, since each of others would be compiled."""
    if case.mode != "eager":
        return
    needed: list[str] = []
    others: list[str] = []
    for option, plain in without(case):
        for seen in observer.case(plain):
            (others if seen.wrong(kind).any() else needed).append(option)
    if needed or others:
        only = f"only with {', '.join(needed)}" if needed else "no option is needed"
        yield only + (f"; wrong without {', '.join(others)} too" if others else "")


def earlier_calls(observer: Observer, seen: Observation, kind: FaultKind) -> Iterator[str]:
    """A sentence where the observed call, made again after all others, gives another output."""
    again = observe(observer.path, seen.problem, observer.device)
    if again is None:
        return
    first, second = seen.result.output, again.result.output
    if bool(equal(second, first, torch.zeros(())).all()):
        return
    right = "" if again.wrong(kind).any() else ", which is right"
    yield f"made again after other calls, it gives another output{right}"
