"""One run of a user's function on one case, in this process. What goes in and what comes out are
plain values, so that the run can as well happen in a worker."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.budget import Precision
from harness.case import DecodeCase, InvalidCase
from harness.environment import environment
from harness.paths import Path
from harness.scope import HEAD_DIMS, Scope
from harness.target import (
    check_signature,
    declared_precision,
    declared_supports,
    load,
    target_path,
)
from harness.verdict import Finding, Judgement, Problem, Verdict, judge


@dataclass(frozen=True)
class Order:
    """What to run: a target, and what its user says about it. ``supports`` and ``precision``
    replace the function's own attributes where they are not None."""

    target: str
    device: str = "cpu"
    supports: tuple[str, ...] | None = None
    precision: dict[str, str] | None = None
    head_dims: tuple[int, ...] = HEAD_DIMS
    cache_len: tuple[int, int] = Scope.cache_len
    dtypes: tuple[str, ...] = Scope.dtypes

    def scope(self, features: tuple[str, ...]) -> Scope:
        """What may be drawn for a function with these features."""
        return Scope(features, self.head_dims, self.cache_len, self.dtypes)

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Read what ``to_json`` wrote."""
        values = json.loads(text)
        for name in ("supports", "head_dims", "cache_len", "dtypes"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


@dataclass(frozen=True)
class Facts:
    """What is known once the target is loaded."""

    features: tuple[str, ...]
    environment: dict[str, Any]
    precision: Precision

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Facts:
        """Read what ``dataclasses.asdict`` and JSON made of one."""
        precision = Precision(**values["precision"])
        return cls(tuple(values["features"]), values["environment"], precision)


@dataclass(frozen=True)
class Outcome:
    """What one run found. ``invalid`` is the reason why nobody can be held to the case, or "";
    ``utilisation`` is None where no numbers came back; ``names`` are faults that explain the
    numbers, best first, with ``sentences`` for a reader."""

    findings: tuple[Finding, ...] = ()
    invalid: str = ""
    utilisation: float | None = None
    graphs: int = 0
    names: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The first finding's verdict, or OK."""
        return self.findings[0].verdict if self.findings else Verdict.OK

    @property
    def kind(self) -> tuple[Verdict, tuple[str, ...]]:
        """What must stay the same while a case is shrunk: verdict and leading diagnosis."""
        return self.verdict, self.names[:1]

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Read what ``to_json`` wrote."""
        values = json.loads(text)
        for name in ("names", "sentences"):
            values[name] = tuple(values[name])
        values["findings"] = tuple(
            Finding(Verdict(f["verdict"]), f["evidence"]) for f in values["findings"]
        )
        return cls(**values)


@dataclass
class Trial:
    """A loaded target, run in this process. ``write_down`` gets each case before it runs.

    Raises:
        TargetError: where the target cannot be loaded or declares what cannot be.
    """

    order: Order
    write_down: Callable[[DecodeCase], None] = lambda case: None
    path: Path = field(init=False)
    facts: Facts = field(init=False)

    def __post_init__(self) -> None:
        order = self.order
        function = load(order.target)
        features = order.supports
        if features is None:
            features = declared_supports(function)
        check_signature(function, features)
        given = order.precision
        if given is None:
            given = getattr(function, "precision", {})
        precision = declared_precision(given)
        self.path = target_path(order.target, function, order.scope(features), precision)
        self.facts = Facts(features, environment(order.device), precision)

    def run(self, case: DecodeCase, *, timeout: float | None = None) -> Outcome:
        """Judge the target on ``case``, and explain what is wrong. A time limit needs a worker;
        here it is ignored."""
        device = self.order.device
        self.write_down(case)
        try:
            problem = Problem.of(case)
        except InvalidCase as error:
            return Outcome(invalid=str(error))
        judgement = judge(self.path, problem, device)
        names: tuple[str, ...] = ()
        sentences: tuple[str, ...] = ()
        if judgement.output is not None and not judgement.verdict.passes:
            names, sentences = _diagnose(self.path, problem, judgement, device)
        return Outcome(
            judgement.findings,
            utilisation=judgement.error.utilisation if judgement.error else None,
            graphs=self.path.graphs(case),
            names=names,
            sentences=sentences,
        )


def _diagnose(
    path: Path, problem: Problem, judgement: Judgement, device: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Faults that explain the output, best first, and a sentence for each."""
    return (), ()


def poisoned(device: str) -> bool:
    """Whether a CUDA error has made this process's context unusable."""
    if torch.device(device).type != "cuda":
        return False
    try:
        torch.zeros(1, device=device).cpu()
    except RuntimeError:
        return True
    return False
