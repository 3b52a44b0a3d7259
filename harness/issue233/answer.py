"""The bug report meta-pytorch/gpt-fast#233, run as written and answered claim by claim; or any
case, run on all paths.

The report compares flex_attention over the whole KV cache with flex_attention over the filled
slots, sees 101 % relative error, and takes the sliced side to be right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.diagnosis.diagnosis import Diagnosis, diagnose
from harness.inputs import make_inputs
from harness.issue233.claims import FULL, REPORTED, SLICED, UNMASKED, Claim, claims
from harness.oracle.golden import second_opinion, without_second_opinion
from harness.paths import PATHS
from harness.support.progress import Progress
from harness.verdict import Judgement, Problem, Verdict, judge
from harness.verdict.known_failures import known_failure

REPORT_URL = "https://github.com/meta-pytorch/gpt-fast/issues/233"
REPORT_CASE = DecodeCase(cache_len=2048, input_pos=(99,), heads=32, head_dim=128, dtype="bfloat16")
REPORT_FIGURES = {
    "mean error": 0.816406,
    "relative error in %": 101.0,
    "full cache std": 0.152802,
    "sliced cache std": 1.016770,
}
FIGURE_SEEDS = range(24)
# What says which side is wrong.
SIDES = (FULL, REPORTED, SLICED)


@dataclass(frozen=True)
class Figure:
    """One of the report's four numbers: as reported, as measured here, and its range over seeds."""

    name: str
    reported: float
    ours: float
    low: float
    high: float

    @property
    def reproduces(self) -> bool:
        """Whether the reported number lies in the range over seeds."""
        return self.low <= self.reported <= self.high


@dataclass(frozen=True)
class Answer:
    """What ``repro`` has found so far; of the report where ``report`` is set.

    ``finding``, sentences about which side is wrong, is there as soon as both sides are judged.
    ``judged`` says that ``judgements`` are of all paths; then ``second_opinion`` is the largest
    difference of golden from float64 SDPA, and ``known_failures`` are the names of known failures
    of torch (FINDINGS.md) that may show on the case. ``diagnoses`` has the faults that explain
    failing paths, by path, ``figures`` are the report's numbers, and ``claims`` its claims. Once it
    is ``complete``, ``unexpected`` says how the outcome differs from the expected one."""

    case: DecodeCase
    device: str
    report: bool = False
    finding: tuple[str, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    judged: bool = False
    second_opinion: float | None = None
    known_failures: dict[str, str] = dataclasses.field(default_factory=dict)
    diagnoses: dict[str, Diagnosis] = dataclasses.field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()
    complete: bool = False
    unexpected: tuple[str, ...] = ()

    @property
    def nothing_judged(self) -> bool:
        """Whether no path supports the case."""
        return all(j.verdict is Verdict.UNSUPPORTED for j in self.judgements)

    @property
    def by_path(self) -> dict[str, Judgement]:
        """The judgements by path."""
        return {j.path: j for j in self.judgements}

    @property
    def to_explain(self) -> list[Judgement]:
        """The judgements of paths that failed and returned an output."""
        return [j for j in self.judgements if not j.verdict.passes and j.output is not None]


# Answers, each of which knows more than those before it, and the last one as the result.
_Steps = Generator[Answer, None, Answer]


def unexpected_verdicts(judgements: tuple[Judgement, ...]) -> list[str]:
    """A sentence for each path that fails although it is not known wrong."""
    return [
        f"{j.path} is {j.verdict}"
        for j in judgements
        if not PATHS[j.path].known_wrong and not j.verdict.passes
    ]


def known_by_path(problem: Problem, device: str) -> dict[str, str]:
    """The names of the known failures of torch that may show on the problem, by path."""
    found = {name: known_failure(path, problem, device) for name, path in PATHS.items()}
    return {name: known.name for name, known in found.items() if known is not None}


def golden_difference(problem: Problem) -> float | None:
    """The largest |golden - float64 SDPA| over all elements, in units of the output; None where
    there is no second opinion."""
    if without_second_opinion(problem.case):
        return None
    difference = problem.golden.output - second_opinion(problem.inputs)
    return difference.abs().max().item() if difference.numel() else 0.0


def answer_case(case: DecodeCase, device: str, progress: Progress) -> Iterator[Answer]:
    """Run all paths on one case: what is known after each step; the last answer is complete.

    Raises:
        InvalidCase: where no implementation can be judged on the case.
    """
    problem = Problem.of(case)
    answer = yield from _judged(problem, Answer(case, device), progress)
    answer = yield from _explained(problem, answer, progress)
    unexpected = tuple(unexpected_verdicts(answer.judgements))
    yield dataclasses.replace(answer, complete=True, unexpected=unexpected)


def answer_report(case: DecodeCase, device: str, progress: Progress) -> Iterator[Answer]:
    """Run the report's two computations and all paths, and judge each claim of the report: what is
    known after each step, which side is wrong first; the last answer is complete.

    Raises:
        InvalidCase: where no implementation can be judged on the case.
    """
    problem = Problem.of(case)
    answer = yield from _judged(problem, Answer(case, device, report=True), progress)
    answer = yield from _explained(problem, answer, progress)
    by_path, unexpected = answer.by_path, unexpected_verdicts(answer.judgements)
    if answer.finding:
        progress("the report's figures over seeds")
        answer = dataclasses.replace(answer, figures=report_figures(case, device))
        yield answer
        for claim in claims(problem, by_path, device, progress):
            answer = dataclasses.replace(answer, claims=(*answer.claims, claim))
            yield answer
        unexpected += _unexpected_of_report(problem, answer)
    yield dataclasses.replace(answer, complete=True, unexpected=tuple(unexpected))


def _judged(problem: Problem, answer: Answer, progress: Progress) -> _Steps:
    """Judge every path; of the report, those first that say which side is wrong."""
    first = SIDES if answer.report else ()
    for name in dict.fromkeys((*first, *PATHS)):
        progress(f"{name} on {problem.case}")
        judgement = judge(PATHS[name], problem, answer.device)
        answer = dataclasses.replace(answer, judgements=(*answer.judgements, judgement))
        if answer.report and len(answer.judgements) == len(SIDES):
            by_path = answer.by_path
            if by_path[FULL].output is not None and by_path[REPORTED].output is not None:
                finding = finding_in_words(problem, by_path)
                answer = dataclasses.replace(answer, finding=finding)
        yield answer
    answer = dataclasses.replace(
        answer,
        judged=True,
        second_opinion=golden_difference(problem),
        known_failures=known_by_path(problem, answer.device),
    )
    yield answer
    return answer


def _explained(problem: Problem, answer: Answer, progress: Progress) -> _Steps:
    """Explain each path that failed."""
    for judgement in answer.to_explain:
        name = judgement.path
        progress(f"what explains {name}")
        found = diagnose(PATHS[name], problem, answer.device)
        answer = dataclasses.replace(answer, diagnoses={**answer.diagnoses, name: found})
        yield answer
    return answer


def _unexpected_of_report(problem: Problem, answer: Answer) -> Iterator[str]:
    """How the outcome of the report differs from the recorded one, other than by verdicts of paths
    that count."""
    case, by_path = answer.case, answer.by_path
    if case == REPORT_CASE.replace(seed=case.seed, mode=case.mode, kernels=case.kernels):
        for f in answer.figures:
            if not f.reproduces:
                span = f"{f.low:g} to {f.high:g}"
                yield f"the report's {f.name}, {f.reported:g}, lies outside {span}"
    if not equals_first_value(problem, by_path[REPORTED]):
        yield "the report's slice does not equal v[:, :, :1]"
    tail = case.cache_len > case.input_pos[0] + 1
    for name, wrong in ((REPORTED, case.input_pos[0] > 0), (UNMASKED, tail)):
        if by_path[name].verdict.passes == wrong:
            expected = "wrong" if wrong else "OK"
            yield f"{name} is {by_path[name].verdict}, expected {expected}"


def _figures(full: Tensor, sliced: Tensor) -> tuple[float, float, float, float]:
    # The arithmetic is in the tensors' own dtype, as in the report.
    error = (full - sliced).abs()
    mean = error.mean()
    return (
        mean.item(),
        (mean / sliced.abs().mean() * 100).item(),
        full.std().item(),
        sliced.std().item(),
    )


def report_figures(case: DecodeCase, device: str) -> tuple[Figure, ...]:
    """The report's four numbers for the case's seed, and their range over ``FIGURE_SEEDS``."""

    def of(seed: int) -> tuple[float, float, float, float]:
        inputs = make_inputs(case.replace(seed=seed)).to(device)
        return _figures(PATHS[FULL](inputs).output, PATHS[REPORTED](inputs).output)

    ours, over_seeds = of(case.seed), [of(seed) for seed in FIGURE_SEEDS]
    return tuple(
        Figure(
            name, reported, ours[i], min(s[i] for s in over_seeds), max(s[i] for s in over_seeds)
        )
        for i, (name, reported) in enumerate(REPORT_FIGURES.items())
    )


def equals_first_value(problem: Problem, reported: Judgement) -> bool:
    """Whether the report's slice is, bit for bit, the value of slot 0."""
    first = problem.inputs.value_cache[:, :, :1]
    return reported.output is not None and torch.equal(reported.output, first)


def finding_in_words(problem: Problem, by_path: dict[str, Judgement]) -> tuple[str, ...]:
    """Sentences about which side is wrong, from what was measured."""
    position = problem.case.input_pos[0]
    full, reported, sliced = by_path[FULL], by_path[REPORTED], by_path[SLICED]
    assert full.error is not None and reported.error is not None
    lines = []
    if full.verdict.passes and not reported.verdict.passes:
        lines.append(
            "The report's numbers are real. The side at fault is the other one: the sliced cache."
        )
    elif full.verdict.passes:
        lines.append("On this case both sides are right.")
    else:
        lines.append(f"The full cache itself is {full.verdict} here: see its row.")
    lines.append(
        f"Against float64 over the {position + 1} filled slots the full cache is off by"
        f" {full.error.relative_l2:.2%}, the report's slice by {reported.error.relative_l2:.2%}"
        f" ({full.error.utilisation:.2g} and {reported.error.utilisation:.3g} rounding budgets)."
    )
    if equals_first_value(problem, reported):
        lines.append(
            "The report's slice equals v[:, :, :1] bit for bit (torch.equal): it attends slot 0"
            " alone."
        )
    if sliced.error is not None and full.output is not None and sliced.output is not None:
        same = "the same bits as" if torch.equal(full.output, sliced.output) else "agreement with"
        lines.append(
            f"The slice with that offset is {sliced.verdict},"
            f" {sliced.error.relative_l2:.2%} off: {same} the full cache."
        )
    return tuple(lines)
