"""One word per path and case, with its evidence. Never a bare bool."""

from __future__ import annotations

import enum
import traceback
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.attendable import tail
from harness.budget import Budget, budget
from harness.case import DecodeCase
from harness.error import Error, measure
from harness.inputs import Inputs, make_inputs
from harness.junk import junk_memory
from harness.oracle import Golden, golden
from harness.paths import Path, Result

# What the tail is changed to; both ends are finite wherever the case's own tail is.
_OTHER_TAIL = {"zeros": "poison", "leftovers": "poison"}


class Verdict(enum.StrEnum):
    """The outcome of one path on one case."""

    OK = "OK"
    UNSUPPORTED = "UNSUPPORTED"
    MUTATED = "MUTATED"
    WRONG = "WRONG"
    NONFINITE = "NONFINITE"
    LEAK = "LEAK"
    NONDETERMINISTIC = "NONDETERMINISTIC"
    ERROR = "ERROR"
    OOM = "OOM"

    @property
    def passes(self) -> bool:
        """Whether this verdict leaves the exit code at 0."""
        return self in (Verdict.OK, Verdict.UNSUPPORTED)


@dataclass(frozen=True)
class Finding:
    """A verdict and the evidence for it."""

    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Problem:
    """A case with its inputs (on the CPU) and its golden; shared by the paths judged on it."""

    case: DecodeCase
    inputs: Inputs
    golden: Golden

    @classmethod
    def of(cls, case: DecodeCase) -> Problem:
        """Draw the inputs and compute golden.

        Raises:
            InvalidCase: where no implementation can be held to the case.
        """
        inputs = make_inputs(case)
        return cls(case, inputs, golden(inputs))


@dataclass(frozen=True)
class Judgement:
    """What was found of one path on one case.

    ``findings`` are in the order in which they were looked for; the first is the verdict, and
    without any it is OK. ``error`` and ``logsumexp_error`` are None where nothing comparable came
    back.
    """

    path: str
    case: DecodeCase
    device: str
    findings: tuple[Finding, ...] = ()
    error: Error | None = None
    logsumexp_error: Error | None = None
    output: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> Verdict:
        """The first finding's verdict, or OK."""
        return self.findings[0].verdict if self.findings else Verdict.OK

    @property
    def verdicts(self) -> str:
        """All different verdicts, the leading one first: ``LEAK, WRONG``."""
        return ", ".join(dict.fromkeys(f.verdict for f in self.findings)) or Verdict.OK


def judge(path: Path, problem: Problem, device: str = "cpu") -> Judgement:
    """Run ``path`` on the problem and say what is right or wrong with it.

    The order: inputs unchanged; type, shape, dtype, device; finite; exact relations (the tail
    changes no bit, a second run with junk in the allocator changes no bit); error within budget,
    where rows with nothing to attend have a budget of 0.
    """
    case = problem.case
    if reason := path.unsupported(case, device):
        return Judgement(path.name, case, device, (Finding(Verdict.UNSUPPORTED, reason),))
    inputs = problem.inputs.to(device)
    before = inputs.clone()
    result = attempt(path, inputs)
    if isinstance(result, Finding):
        return Judgement(path.name, case, device, (result,))
    findings = mutations(before, inputs)
    if malformed := _malformed(inputs, result):
        return Judgement(path.name, case, device, (*findings, malformed))
    findings += _nonfinite(result.output)
    findings += _leak(path, problem, result, device)
    with junk_memory(device):
        again = attempt(path, before.to(device))
    findings += _differs(Verdict.NONDETERMINISTIC, "a second run, with junk in", result, again)

    bound = budget(
        problem.inputs, problem.golden, path.precision, tensor_cores=inputs.query.is_cuda
    )
    errors = compare(result, problem.golden, bound)
    findings += [_wrong(name, error) for name, error in errors.items() if error.utilisation > 1]
    return Judgement(
        path.name,
        case,
        device,
        tuple(findings),
        errors["output"],
        errors.get("logsumexp"),
        result.output.cpu(),
    )


def attempt(path: Path, inputs: Inputs) -> Result | Finding:
    """The path's result, or what it raised as a finding."""
    try:
        return path(inputs)
    except NotImplementedError as error:
        return Finding(Verdict.UNSUPPORTED, f"raised NotImplementedError: {error}")
    except (MemoryError, torch.OutOfMemoryError) as error:
        return Finding(Verdict.OOM, _line(error))
    except Exception as error:
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            return Finding(Verdict.OOM, _line(error))
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Finding(Verdict.ERROR, f"{_line(error)} (line {frame.lineno} of {frame.name})")


def compare(result: Result, gold: Golden, bound: Budget) -> dict[str, Error]:
    """The errors of the output and, where there is one, of the logsumexp."""
    errors = {"output": measure(result.output.cpu(), gold.output, bound.output)}
    if result.logsumexp is not None:
        actual = result.logsumexp.cpu()
        errors["logsumexp"] = measure(actual, gold.logsumexp, bound.logsumexp)
    return errors


def mutations(before: Inputs, after: Inputs) -> list[Finding]:
    """A finding for each input tensor whose bits changed."""
    changed = [
        name
        for name, tensor in after.tensors.items()
        if not _same_bits(before.tensors[name], tensor)
    ]
    return [Finding(Verdict.MUTATED, f"changed its input {name}") for name in changed]


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _malformed(inputs: Inputs, result: Result) -> Finding | None:
    case, output = inputs.case, result.output
    if not isinstance(output, Tensor):
        return Finding(Verdict.WRONG, f"returned {type(output).__name__}, not a tensor")
    shape = (case.batch, case.heads, case.q_len, case.value_dim)
    for what, actual, wanted in (
        ("shape", tuple(output.shape), shape),
        ("dtype", output.dtype, inputs.query.dtype),
        ("device", output.device, inputs.query.device),
    ):
        if actual != wanted:
            return Finding(Verdict.WRONG, f"{what} is {actual}, should be {wanted}")
    logsumexp = result.logsumexp
    if logsumexp is not None and logsumexp.shape != shape[:3]:
        actual_shape = tuple(logsumexp.shape)
        return Finding(Verdict.WRONG, f"logsumexp's shape is {actual_shape}, should be {shape[:3]}")
    return None


def _nonfinite(output: Tensor) -> list[Finding]:
    bad = ~output.isfinite()
    if not bad.any():
        return []
    return [Finding(Verdict.NONFINITE, f"{_where(bad)} NaN or inf; golden is finite")]


def _leak(path: Path, problem: Problem, result: Result, device: str) -> list[Finding]:
    case = problem.case
    if not tail(case).any():
        return []
    other = case.replace(tail=_OTHER_TAIL.get(case.tail, "leftovers"))
    inputs = make_inputs(other).to(device)
    return _differs(
        Verdict.LEAK,
        f"the tail changed from {case.tail} to {other.tail}",
        result,
        attempt(path, inputs),
    )


def _differs(verdict: Verdict, what: str, first: Result, second: Result | Finding) -> list[Finding]:
    if isinstance(second, Finding):
        return [Finding(verdict, f"{what}: {second.verdict} {second.evidence}")]
    changed = first.output.ne(second.output) & ~(first.output.isnan() & second.output.isnan())
    if not changed.any():
        return []
    return [Finding(verdict, f"{what}: {_where(changed)} changed")]


def _where(bad: Tensor) -> str:
    first = tuple(int(i) for i in bad.nonzero()[0])
    return f"{int(bad.sum())} of {bad.numel()} elements, the first at {first},"


def _wrong(name: str, error: Error) -> Finding:
    return Finding(
        Verdict.WRONG,
        f"{name} at {error.index} is {error.actual:.6g}, should be {error.golden:.6g}"
        f" +- {error.allowed:.2g} ({error.utilisation:.3g} times the rounding budget)",
    )
