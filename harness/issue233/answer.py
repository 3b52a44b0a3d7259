"""The bug report meta-pytorch/gpt-fast#233, run as written and answered claim by claim; or any
case, run on all paths.

The report compares flex_attention over the whole KV cache with flex_attention over the filled
slots, sees 101 % relative error, and takes the sliced side to be right.
"""

from __future__ import annotations

import dataclasses
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

REPORT_ID = "gpt-fast-233"
REPORT_URL = "https://github.com/meta-pytorch/gpt-fast/issues/233"
REPORT_CASE = DecodeCase(cache_len=2048, input_pos=(99,), heads=32, head_dim=128, dtype="bfloat16")
REPORT_FIGURES = {
    "mean error": 0.816406,
    "relative error in %": 101.0,
    "full cache std": 0.152802,
    "sliced cache std": 1.016770,
}
FIGURE_SEEDS = range(24)


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
    """What ``repro`` found.

    ``second_opinion`` is the largest difference of golden from float64 SDPA. ``diagnoses`` has the
    faults that explain failing paths, and ``known_failures`` the names of known failures of torch
    (FINDINGS.md) that may show on the case, both by path. ``unexpected`` says how the outcome
    differs from the expected one. ``figures``, the report's numbers, ``finding``, sentences about
    which side is wrong, and ``claims`` are for the report alone."""

    case: DecodeCase
    device: str
    second_opinion: float | None
    judgements: tuple[Judgement, ...]
    diagnoses: dict[str, Diagnosis]
    known_failures: dict[str, str]
    unexpected: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    finding: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def nothing_judged(self) -> bool:
        """Whether no path supports the case."""
        return all(j.verdict is Verdict.UNSUPPORTED for j in self.judgements)


def judge_all(problem: Problem, device: str, progress: Progress) -> tuple[Judgement, ...]:
    """Judge every path on one problem."""
    judgements = []
    for path in PATHS.values():
        progress(f"{path.name} on {problem.case}")
        judgements.append(judge(path, problem, device))
    return tuple(judgements)


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


def answer_case(case: DecodeCase, device: str, progress: Progress) -> Answer:
    """Run all paths on one case.

    Raises:
        InvalidCase: where no implementation can be judged on the case.
    """
    return _answer(Problem.of(case), device, progress)


def _answer(problem: Problem, device: str, progress: Progress) -> Answer:
    judgements = judge_all(problem, device, progress)
    return Answer(
        problem.case,
        device,
        golden_difference(problem),
        judgements,
        _diagnoses(problem, judgements, device, progress),
        known_by_path(problem, device),
        tuple(unexpected_verdicts(judgements)),
    )


def _diagnoses(
    problem: Problem, judgements: tuple[Judgement, ...], device: str, progress: Progress
) -> dict[str, Diagnosis]:
    """A diagnosis for each path that failed and returned an output, by path."""
    found = {}
    for judgement in judgements:
        if not judgement.verdict.passes and judgement.output is not None:
            progress(f"what explains {judgement.path}")
            found[judgement.path] = diagnose(PATHS[judgement.path], problem, device)
    return found


def answer_report(case: DecodeCase, device: str, progress: Progress) -> Answer:
    """Run the report's two computations and all paths, and judge each claim of the report.

    Raises:
        InvalidCase: where no implementation can be judged on the case.
    """
    problem = Problem.of(case)
    answer = _answer(problem, device, progress)
    by_path = {j.path: j for j in answer.judgements}
    if by_path[FULL].output is None or by_path[REPORTED].output is None:
        return answer
    progress("the report's figures over seeds")
    figures = report_figures(case, device)
    unexpected = list(answer.unexpected)
    if case == REPORT_CASE.replace(seed=case.seed, mode=case.mode, kernels=case.kernels):
        unexpected += [
            f"the report's {f.name}, {f.reported:g}, lies outside {f.low:g} to {f.high:g}"
            for f in figures
            if not f.reproduces
        ]
    first_value = equals_first_value(problem, by_path[REPORTED])
    if not first_value:
        unexpected.append("the report's slice does not equal v[:, :, :1]")
    tail = case.cache_len > case.input_pos[0] + 1
    for name, wrong in ((REPORTED, case.input_pos[0] > 0), (UNMASKED, tail)):
        if by_path[name].verdict.passes == wrong:
            expected = "wrong" if wrong else "OK"
            unexpected.append(f"{name} is {by_path[name].verdict}, expected {expected}")
    return dataclasses.replace(
        answer,
        unexpected=tuple(unexpected),
        figures=figures,
        finding=finding_in_words(problem, by_path, answer.diagnoses.get(REPORTED), first_value),
        claims=tuple(claims(problem, by_path, device, progress)),
    )


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


def finding_in_words(
    problem: Problem,
    by_path: dict[str, Judgement],
    diagnosis: Diagnosis | None,
    first_value: bool,
) -> tuple[str, ...]:
    """Sentences about which side is wrong and why, from what was measured."""
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
    if first_value:
        lines.append(
            "The report's slice equals v[:, :, :1] bit for bit (torch.equal): it attends slot 0"
            " alone."
        )
    if diagnosis is not None:
        lines += [f"Why: {'; '.join(diagnosis.evidence)}.", f"Remedy: {diagnosis.remedy}."]
    if sliced.error is not None and full.output is not None and sliced.output is not None:
        same = "the same bits as" if torch.equal(full.output, sliced.output) else "agreement with"
        lines.append(
            f"The slice with that offset is {sliced.verdict},"
            f" {sliced.error.relative_l2:.2%} off: {same} the full cache."
        )
    return tuple(lines)
