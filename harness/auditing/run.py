"""A model through a scenario: each attention call judged, and the first one that is off blamed."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.auditing.blame import Blame
from harness.auditing.call import AttentionCall
from harness.auditing.content import NOTHING
from harness.auditing.deciding import Step, blamed, look_at
from harness.auditing.model import Configuration, Refused
from harness.auditing.observe import observed
from harness.auditing.recorder import Recorder
from harness.auditing.reference import Reference, References
from harness.auditing.scenario import Plan, Scenario, planned
from harness.verdict import Verdict


@dataclass(frozen=True)
class Evidence:
    """The call that is blamed, and of the row in question what each slot holds (the number of a
    token, or ``NOTHING``) and the tokens that are due."""

    call: AttentionCall
    held: list[int]
    due: list[int]


@dataclass(frozen=True)
class Audit:
    """What came of a configuration in a scenario.

    ``calls`` attention calls were judged in ``forwards`` forwards, ``compiled`` of them parts of
    compiled code. ``blame`` is of the first that
    is off, or None, and ``evidence`` has its tensors. ``at`` is the number of the forward that is
    off or raises. ``greedy`` of ``tokens`` next tokens that greedy
    decoding would choose differ from the reference's. ``error`` is the largest error of a logit,
    in units of the reference's largest. ``refusal`` says why it is UNSUPPORTED, NONFINITE or an
    ERROR.
    """

    configuration: str
    scenario: Scenario
    verdict: Verdict
    calls: int = 0
    compiled: int = 0
    forwards: int = 0
    blame: Blame | None = None
    evidence: Evidence | None = None
    at: int = 0
    greedy: int = 0
    tokens: int = 0
    error: float = 0.0
    refusal: str = ""
    seconds: float = 0.0

    def headline(self) -> list[str]:
        """What is blamed and where, in two lines; nothing where nothing is blamed."""
        if self.blame is None:
            return []
        where = f"forward {self.at}, layer {self.blame.layer}, sequence {self.blame.sequence}"
        return [
            f"{self.configuration}, {self.scenario.name}: {self.blame.what}, first in",
            f"{where}, token {self.blame.token}.",
        ]

    def portable(self) -> Audit:
        """The same without functions, so that it can come from another process."""
        if self.evidence is None:
            return self
        call = self.evidence.call
        again = None if call.again is None else _made_elsewhere
        call = dataclasses.replace(call, again=again, score_mod=None)
        return dataclasses.replace(self, evidence=dataclasses.replace(self.evidence, call=call))


def _made_elsewhere(value: Tensor) -> Tensor:
    raise RuntimeError("the call was made in another process")


def audit(
    configuration: Configuration,
    scenario: Scenario,
    seed: int = 0,
    references: References | None = None,
) -> Audit:
    """Run the scenario and judge every attention call until one is off; the logits of all forwards
    are compared all the same. ``references`` are those of audits of the same model, just before."""
    start = time.monotonic()

    def result(verdict: Verdict, **facts: object) -> Audit:
        spent = time.monotonic() - start
        return Audit(configuration.name, scenario, verdict, seconds=spent, **facts)  # type: ignore[arg-type]

    plan = planned(scenario, configuration.vocabulary, seed)
    known = _Known(configuration, plan, references or References())
    try:
        session = configuration.begin(len(scenario.prompts), scenario.slots)
    except Refused as refusal:
        return result(Verdict.UNSUPPORTED, refusal=str(refusal))
    calls: list[AttentionCall] = []
    recorder = Recorder(calls.append, in_graph=True)
    count, compiled, blame, evidence, at = 0, 0, None, None, 0
    outcome = Compared()
    for number, forward in enumerate(plan.forwards):
        try:
            if forward.rollback:
                session.rollback(forward.rollback)
                continue
            recorder.forward()
            with observed(recorder), torch.no_grad():
                logits = session.feed(forward.ids, forward.numbers != NOTHING)
        except Refused as refusal:
            return result(Verdict.UNSUPPORTED, calls=count, refusal=str(refusal))
        except Exception as error:
            text = f"forward {number}: {_line(error)}"
            return result(Verdict.ERROR, calls=count, refusal=text, at=number)
        try:
            step = known.step(forward.numbers, forward.epoch)
        except Exception as error:
            return result(Verdict.ERROR, calls=count, refusal=f"uncached: {_line(error)}")
        if len(calls) != (layers := len(step.live[0].calls)):
            seen = f"forward {number}: {len(calls)} of {layers} attention calls could be watched"
            return result(Verdict.UNSUPPORTED, calls=count, refusal=seen)
        for call in calls:
            if blame is None:
                count, compiled = count + 1, compiled + (call.again is None)
                blame, at = blamed(call, step, configuration.precision), number
                evidence = None if blame is None else _evidence(blame, call, step)
        calls.clear()
        outcome.add(logits, forward.numbers, step, number)
    verdict, why = Verdict.OK if blame is None else Verdict.WRONG, ""
    if blame is None and outcome.nonfinite is not None:
        verdict, at = Verdict.NONFINITE, outcome.nonfinite
        why = (
            f"forward {at}: a logit is NaN or infinite where the uncached forward's is not that;"
            f" all {count} attention calls are right, so what comes after the last of them is off"
        )
    return result(
        verdict,
        refusal=why,
        calls=count,
        compiled=compiled,
        forwards=len(plan.forwards),
        blame=blame,
        evidence=evidence,
        at=at,
        greedy=outcome.greedy,
        tokens=outcome.tokens,
        error=outcome.error,
    )


def _evidence(blame: Blame, call: AttentionCall, step: Step) -> Evidence:
    look = look_at(call, step, blame.sequence)
    due = look.should[int((look.tokens == blame.token).nonzero()[0])]
    return Evidence(call, look.held, due.nonzero().flatten().tolist())


def _line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


@dataclass
class Compared:
    """Logits beside the reference's; the fields are those of ``Audit``."""

    greedy: int = 0
    tokens: int = 0
    error: float = 0.0
    nonfinite: int | None = None

    def add(self, logits: Tensor, numbers: Tensor, step: Step, forward: int) -> None:
        """Compare the logits ``[B, n, vocabulary]`` of the tokens ``numbers`` ``[B, n]``. Where a
        number is not finite it is infinitely far off, unless it equals the reference's: a hidden
        part of a vocabulary may be -inf in both."""
        for b, reference in enumerate(step.live):
            real = numbers[b] != NOTHING
            got = logits[b][real].double()
            wanted = reference.logits[numbers[b][real]]
            self.tokens += int(real.sum())
            self.greedy += int((got.argmax(-1) != wanted.argmax(-1)).sum())
            if got.numel():
                apart = torch.where(got == wanted, 0.0, (got - wanted).abs())
                apart = apart.nan_to_num(nan=math.inf, posinf=math.inf)
                largest = wanted.abs().masked_fill(~wanted.isfinite(), 0.0).max().item()
                off = apart.max().item()
                self.error = max(self.error, off / largest if largest else off)
                if off == math.inf and self.nonfinite is None:
                    self.nonfinite = forward


class _Known:
    """The references of a plan, computed when they are first asked for."""

    def __init__(self, configuration: Configuration, plan: Plan, references: References) -> None:
        self._plan = plan
        self._uncached = configuration.uncached
        self._references = references

    def _shifted(self, epoch: int, sequence: int, shift: int) -> Reference:
        tokens = self._plan.histories[epoch][sequence].tolist()
        return self._references.of(
            self._uncached, (*[1] * max(shift, 0), *tokens[max(-shift, 0) :])
        )

    def step(self, numbers: Tensor, epoch: int) -> Step:
        sequences = range(numbers.size(0))
        return Step(
            tokens=numbers,
            live=tuple(self._shifted(epoch, b, 0) for b in sequences),
            drafts=tuple(self._shifted(e, b, 0) for e in range(epoch) for b in sequences),
            shifted=lambda sequence, shift: self._shifted(epoch, sequence, shift),
        )
