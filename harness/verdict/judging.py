"""How a path is judged on a case: the checks, in their order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.case.visible import tail, visible_slots
from harness.inputs import Inputs
from harness.oracle.budget import Budget
from harness.oracle.error import Error, measure
from harness.oracle.golden import Golden
from harness.paths import Path, Result
from harness.paths.compile import not_compiled
from harness.paths.masks import shared_block_masks
from harness.support.frames import raised_at
from harness.verdict.handing import changed_tensors, handed, with_other_tail
from harness.verdict.judgement import Finding, Judgement, Problem, Verdict, Violation
from harness.verdict.junk import junk_memory
from harness.verdict.process_state import kept_settings

T = TypeVar("T")

# Where there is no memory left, torch's allocator for the CPU says the first in a RuntimeError, and
# the C++ library the second.
_OUT_OF_MEMORY = re.compile("allocate memory|bad_alloc")


def judge(path: Path, problem: Problem, device: str = "cpu") -> Judgement:
    """Run ``path`` on the problem and judge what it returns.

    The checks, in this order: inputs and settings of the process are unchanged; type, shape, dtype
    and device are right; the output is finite; a second run with junk in the allocator changes no
    bit; another tail changes no bit; the error is within the budget, which is 0 in rows with
    nothing to attend; a path that declares it sums integers exactly; the output lies in memory of
    its own.
    """
    case = problem.case
    if reason := path.unsupported(case, device):
        return Judgement(path.name, case, device, (Finding(Verdict.UNSUPPORTED, reason),))
    with shared_block_masks():
        return _judged(path, problem, device)


def _judged(path: Path, problem: Problem, device: str) -> Judgement:
    case = problem.case
    changed: list[str] = []
    with handed(problem, device) as given:
        result = attempt(path, given.inputs, changed)
        if isinstance(result, Finding):
            return Judgement(path.name, case, device, (result,))
        findings = given.mutations()
        findings += [Finding(Verdict.MUTATED, f"changed {setting}") for setting in changed]
        if wrong := malformed(given.inputs, result):
            return Judgement(path.name, case, device, (*findings, *wrong))
        shared = aliases(given.inputs, result)
        result = _kept(result)
    findings += nonfinite(result)
    findings += changes_on_repeat(path, problem, result, device)
    findings += leaks(path, problem, result, device)
    errors = errors_of(path, problem, result)
    findings += beyond_budget(errors) + inexact(path, problem, result) + shared
    return Judgement(
        path.name,
        case,
        device,
        tuple(findings),
        errors["output"],
        errors.get("logsumexp"),
        result.output.cpu(),
    )


def attempt(
    path: Callable[[Inputs], Result], inputs: Inputs, changed: list[str] | None = None
) -> Result | Finding:
    """Run a path: its result, or a finding where it raised; the rest is as for ``guarded``."""
    return guarded(lambda: path(inputs), inputs.query.device, changed)


def guarded(
    run: Callable[[], T], device: torch.device, changed: list[str] | None = None
) -> T | Finding:
    """What ``run`` returns, or a finding where it raised.

    Settings of the process that it changed are put back and appended to ``changed`` by name.
    """
    try:
        with kept_settings() as names:
            result = run()
            if device.type == "cuda":
                # CUDA reports an error of a kernel in a later call; this makes it raise here.
                torch.cuda.synchronize(device)
        if changed is not None:
            changed += names
        return result
    except (Exception, SystemExit) as error:
        return _raised(error, device)


def _raised(error: BaseException, device: torch.device) -> Finding:
    """The finding where a path raised ``error`` on ``device``."""
    cause = _cause(error)
    if isinstance(error, SystemExit):
        # Whoever calls the path would be ended by it, be it with status 0.
        return Finding(Verdict.CRASH, f"called sys.exit({error.code!r}){raised_at(error)}")
    if isinstance(cause, Violation):
        return cause.finding
    if isinstance(cause, NotImplementedError):
        return Finding(Verdict.UNSUPPORTED, f"raised {_line(cause)}")
    if reason := not_compiled(error, device.type):
        return Finding(Verdict.UNSUPPORTED, reason)
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if memory or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return Finding(Verdict.OOM, _line(error))
    return Finding(Verdict.ERROR, f"{_line(error)}{raised_at(error)}")


def _cause(error: BaseException) -> BaseException:
    """The error behind those into which Triton's interpreter has wrapped it."""
    while type(error).__name__ == "InterpreterError" and error.__cause__ is not None:
        error = error.__cause__
    return error


def errors_of(path: Path, problem: Problem, result: Result) -> dict[str, Error]:
    """The errors, against golden, of the output and of the logsumexp where the path returns one."""
    bound = problem.bound(path.precision, tensor_cores=result.output.is_cuda)
    return compare(result, problem.golden, bound)


def compare(result: Result, wanted: Golden | Result, bound: Budget) -> dict[str, Error]:
    """The errors of a result against golden or another result, in units of ``bound``; ``wanted``
    and ``bound`` are on the CPU."""
    errors = {"output": measure(result.output.cpu(), wanted.output, bound.output)}
    if result.logsumexp is not None and wanted.logsumexp is not None:
        actual = result.logsumexp.cpu()
        errors["logsumexp"] = measure(actual, wanted.logsumexp, bound.logsumexp)
    return errors


def beyond_budget(errors: Mapping[str, Error]) -> list[Finding]:
    """A finding for each error that is beyond its budget, so that rounding cannot explain it."""
    return [
        Finding(
            Verdict.WRONG,
            f"{name} at {error.index} is {error.actual:.6g}, should be {error.golden:.6g}"
            f" +- {error.allowed:.2g} ({error.utilisation:.3g} times the rounding budget);"
            f" {error.beyond} of {error.elements} elements are beyond theirs",
        )
        for name, error in errors.items()
        if error.utilisation > 1
    ]


def inexact(path: Path, problem: Problem, result: Result) -> list[Finding]:
    """A finding where a path that declares to be exact does not sum integers exactly.

    Under ``probe=integers`` all scores are 0, so a row over 2^k slots has weights 2^-k and sums of
    small integers, which are exact in float32 in any order and rounded once, to the output's dtype.
    Halfway between two numbers of that dtype either one counts as exact: an exp that is off by some
    units in the last place, as in bfloat16 SDPA on CPU, decides such a tie but nothing else.
    """
    case = problem.case
    exact = path.precision.accumulator in ("float32", "float64") and path.precision.output is None
    exact = exact and path.exact
    if case.probe != "integers" or case.score != "none" or not exact:
        return []
    gold, output = problem.golden.output, result.output.cpu().double()
    rounded = gold.to(problem.inputs.query.dtype).double()
    off = ~((output - gold).abs() <= (rounded - gold).abs())
    for b in range(case.batch):
        count = visible_slots(case, b).sum(-1)
        rows = (count & (count - 1)) == 0
        wrong = off[b] & rows[:, None]
        if wrong.any():
            index = tuple(int(i) for i in wrong.nonzero()[0])
            evidence = (
                f"output at {(b, *index)} is {output[b][index].item():.9g}, should be exactly"
                f" {rounded[b][index].item():.9g}: integers over {int(count[index[1]])} slots"
            )
            return [Finding(Verdict.WRONG, evidence)]
    return []


def mutations(before: Inputs, after: Inputs) -> list[Finding]:
    """A finding for each input tensor whose bits the path changed."""
    changed = changed_tensors(before, after)
    return [Finding(Verdict.MUTATED, f"changed its input {name}") for name in changed]


def memory_shared(inputs: Inputs, output: Tensor) -> list[str]:
    """The names of the input tensors in whose memory the output lies."""
    if not output.numel():
        return []
    place = output.untyped_storage().data_ptr()
    tensors = inputs.tensors.items()
    return [name for name, t in tensors if t.untyped_storage().data_ptr() == place]


def aliases(inputs: Inputs, result: Result) -> list[Finding]:
    """A finding where the output is a view of an input, which changes with the next token."""
    shared = memory_shared(inputs, result.output)
    text = f"returned memory of its input {' and '.join(shared)}, which later calls write to"
    return [Finding(Verdict.MUTATED, text)] if shared else []


def malformed(inputs: Inputs, result: Result) -> list[Finding]:
    """Findings where the result has a wrong type, shape, dtype, device or layout, so that its
    numbers cannot be compared."""
    case = inputs.case
    shape = (case.batch, case.heads, case.q_len, case.value_dim)
    wrong = misshapen(result.output, shape, inputs.query)
    if wrong or result.logsumexp is None or result.logsumexp.shape == shape[:3]:
        return wrong
    evidence = f"logsumexp's shape is {tuple(result.logsumexp.shape)}, should be {shape[:3]}"
    return [Finding(Verdict.WRONG, evidence)]


def misshapen(output: object, shape: tuple[int, ...], query: Tensor) -> list[Finding]:
    """Findings where an output is not a plain tensor of this shape, of the query's dtype and on its
    device."""
    if not isinstance(output, Tensor):
        return [Finding(Verdict.WRONG, f"returned {type(output).__name__}, not a tensor")]
    facts = [
        ("shape", tuple(output.shape), shape),
        ("dtype", output.dtype, query.dtype),
        ("device", output.device, query.device),
        ("layout", output.layout, torch.strided),
        ("requires_grad", output.requires_grad, False),
    ]
    return [
        Finding(Verdict.WRONG, f"{what} is {actual}, should be {wanted}")
        for what, actual, wanted in facts
        if actual != wanted
    ]


def nonfinite(result: Result) -> list[Finding]:
    """A finding where the output is NaN or inf, which golden never is."""
    bad = ~result.output.isfinite()
    if not bad.any():
        return []
    return [Finding(Verdict.NONFINITE, f"{_where(bad)} NaN or inf; golden is finite")]


def leaks(path: Path, problem: Problem, result: Result, device: str) -> list[Finding]:
    """A finding where other values in the tail change a bit of the output; NONDETERMINISTIC where
    the same call once more changes it as well."""
    case = problem.case
    if not tail(case).any():
        return []
    with with_other_tail(problem, device) as inputs:
        second = _kept(attempt(path, inputs))
    what = f"the tail changed from {case.tail} to {case.tail_kind.other}"
    found = differs(Verdict.LEAK, what, result, second)
    if not found or isinstance(second, Finding):
        return found
    with with_other_tail(problem, device) as inputs:
        third = attempt(path, inputs)
    what = f"a second run with tail={case.tail_kind.other}"
    return differs(Verdict.NONDETERMINISTIC, what, second, third) or found


def changes_on_repeat(path: Path, problem: Problem, result: Result, device: str) -> list[Finding]:
    """A finding where a second run, with junk in newly allocated memory, gives other bits."""
    what = "a second run, with junk in new memory"
    with handed(problem, device) as given:
        with junk_memory(device):
            second = attempt(path, given.inputs)
        return differs(Verdict.NONDETERMINISTIC, what, result, second)


def differs(verdict: Verdict, what: str, first: Result, second: Result | Finding) -> list[Finding]:
    """A finding where a second run, after ``what`` was changed, gives other bits, or raises."""
    if isinstance(second, Finding):
        # The second run raised, which is the finding. A path that refuses the case only now is
        # taken to give another result.
        raised = verdict if second.verdict is Verdict.UNSUPPORTED else second.verdict
        return [Finding(raised, f"{what}: {second.evidence}")]
    changed = first.output.ne(second.output) & ~(first.output.isnan() & second.output.isnan())
    if not changed.any():
        return []
    return [Finding(verdict, f"{what}: {_where(changed)} changed")]


def _kept(result: Result | Finding) -> Any:
    """The result with a copy of its output, since that may lie in an input, or in a buffer that the
    path's next call overwrites; a finding as it is."""
    if isinstance(result, Finding):
        return result
    return dataclasses.replace(result, output=result.output.detach().clone())


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    # Of a C++ compiler's output, what it complains of first.
    said = (line.partition(" error: ")[2] for line in lines[1:] if " error: " in line)
    return text + next((f": {what}" for what in said), "")


def _where(bad: Tensor) -> str:
    first = tuple(int(i) for i in bad.nonzero()[0])
    return f"{int(bad.sum())} of {bad.numel()} elements, the first at {first},"
