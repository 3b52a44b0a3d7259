"""Measurement of the ledger's entries: one for each path, dtype, mode and kind of data."""

from __future__ import annotations

import datetime
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence

import torch

from harness.interpreter.gpu import chosen
from harness.ledger.cases import KINDS, cases
from harness.ledger.entries import Entry
from harness.oracle.error import Error
from harness.oracle.places import Places, in_last_place
from harness.paths import PATHS, Path
from harness.support.environment import environment
from harness.support.progress import Progress
from harness.verdict import Finding, Problem, attempt, errors_of, judgeable
from harness.verdict.known_failures import known_failure
from harness.verdict.precision import FARTHEST


class Unrecordable(ValueError):
    """A path that raised on a case of the ledger, or whose error there is beyond its budget."""


def interpreted(device: str) -> str:
    """The GPU whose kernels run in an interpreter; or the device itself where it is one."""
    return f"interpreted {chosen()}" if torch.device(device).type == "cpu" else hardware(device)


def hardware(device: str) -> str:
    """The GPU's model, or the processor's architecture and the vector instructions torch uses."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).name
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def recordable(mode: str) -> list[Path]:
    """The paths that have entries: none that is known wrong, and compiled, only static ones, which
    are compiled once for all positions."""
    paths = [path for path in PATHS.values() if not path.known_wrong]
    return [path for path in paths if mode == "eager" or path.static]


def measure_all(
    device: str,
    dtypes: Sequence[str],
    modes: Sequence[str],
    progress: Progress,
    kernels: str = "cpp",
) -> Iterator[Entry]:
    """Measure every entry that this machine can.

    Raises:
        Unrecordable: where an error is beyond the budget, or a path raised; the message names the
            path and the case.
    """
    for mode in modes:
        for dtype in dtypes:
            for kind in KINDS:
                progress(f"{mode} {dtype} {kind}")
                problems = list(judgeable(cases(mode, kind, dtype, kernels)))
                for path in recordable(mode):
                    entry = measure_entry(path, problems, kind, device)
                    if entry is not None:
                        yield entry


def measure_piece(
    device: str, dtype: str, mode: str, kernels: str, threads: int
) -> list[Entry] | str:
    """The entries of one dtype and mode, measured with so many threads; the message where they
    cannot be recorded. Arguments and results travel to and from another process."""
    torch.set_num_threads(threads)
    try:
        return list(measure_all(device, [dtype], [mode], lambda text: None, kernels))
    except Unrecordable as error:
        return str(error)


def measure_entry(
    path: Path, problems: Iterable[Problem], kind: str, device: str = "cpu"
) -> Entry | None:
    """Measure one entry: a path over the problems that it takes, without known failures of torch;
    None where no problem is left.

    Raises:
        Unrecordable: where an error is beyond the budget, or the path raised.
    """
    errors: list[tuple[Error, Problem]] = []
    places: list[Places] = []
    for problem in problems:
        case = problem.case
        if path.unsupported(case, device) or known_failure(path, problem, device):
            continue
        result = attempt(path, problem.inputs.clone().to(device))
        if isinstance(result, Finding):
            raise Unrecordable(f"{path.name} is {result.verdict} on {case}: {result.evidence}")
        error = errors_of(path, problem, result)["output"]
        if not error.utilisation <= 1:
            used = f"{error.utilisation:.3g} times its budget"
            raise Unrecordable(f"{path.name} is WRONG on {case}: {used}")
        errors.append((error, problem))
        places.append(in_last_place(result.output.cpu(), problem.golden.output, case.dtype))
    if not errors:
        return None
    worst, at = max(errors, key=lambda pair: pair[0].utilisation)
    case = at.case
    outward = torch.cat([p.outward.flatten() for p in places])
    return Entry(
        path=path.name,
        dtype=case.dtype,
        mode=case.mode,
        kind=kind,
        torch=torch.__version__.partition("+")[0],
        hardware=hardware(device) if case.kernels == "cpp" else interpreted(device),
        kernels=case.kernels,
        exact=torch.cat([p.exact.flatten() for p in places]).double().mean().item(),
        median_ulp=torch.cat([p.error.abs().flatten() for p in places]).median().item(),
        bias_ulp=outward.clamp(-FARTHEST, FARTHEST).mean().item(),
        threads=torch.get_num_threads(),
        cases=len(errors),
        worst_utilisation=worst.utilisation,
        median_utilisation=statistics.median(e.utilisation for e, _ in errors),
        relative_l2=max(e.relative_l2 for e, _ in errors),
        max_abs=max(e.max_abs for e, _ in errors),
        signed_mean=worst.signed_mean,
        worst_case=str(case),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        environment=environment(device),
    )
