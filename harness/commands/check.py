"""``python -m harness check``: a user's function against the oracle."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.case import DTYPES, DecodeCase
from harness.case.domain import HEAD_DIMS, Domain, DomainError, known_features
from harness.case.features import FEATURES
from harness.commands.shared import (
    NOT_OK,
    OK,
    USAGE,
    UsageError,
    device_or_error,
)
from harness.support.files import check_writable, write_atomically
from harness.support.progress import progress_to_stderr

if TYPE_CHECKING:
    from harness.function.run import TargetSpec
    from harness.function.search import Runner

_EXAMPLES, _COMPILED_EXAMPLES = 200, 40
_COMPILED_GEOMETRIES = 4
_TIMEOUT, _COMPILED_TIMEOUT = 30.0, 300.0


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "check",
        help="search for a case on which a function of yours fails",
        description="Judge decode(query, key_cache, value_cache, input_pos, **options) on drawn"
        " cases. README.md has the contract.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("target", metavar="TARGET", help="package.module:function or path/to/file.py:function")
    add("--supports", metavar="NAMES", help=f"of {','.join(FEATURES)}; replaces the attribute")
    add("--precision", metavar="NAME=DTYPE,...", help="replaces the attribute precision")
    add("--head-dims", metavar="D,...", help=f"default {','.join(map(str, HEAD_DIMS))}")
    add("--dtypes", metavar="NAMES", help=f"default {','.join(DTYPES)}")
    add("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    add("--compile", action="store_true", help="torch.compile the function, count its graphs")
    add("--cache-len", metavar="MIN:MAX", help="slots allocated (default 1:1024)")
    add("--max-examples", metavar="N", help=f"default {_EXAMPLES}; compiled {_COMPILED_EXAMPLES}")
    add("--seconds", metavar="S", help="stop drawing after this time")
    add("--timeout", metavar="S", help=f"of one case (default {_TIMEOUT:g}; compiled 300)")
    add("--seed", metavar="N", help="of the search (default 0)")
    add("--case", metavar="ID", help="run this case alone")
    add("--json", type=Path, metavar="FILE", help="write the answer as JSON")
    add("--script", type=Path, metavar="FILE", help="write a script that shows the failing case")
    add("--no-isolation", action="store_true", help="run in this process")


def run(arguments: argparse.Namespace) -> int:
    """Check a target and return the exit code."""
    _contradictions(arguments)
    case = None if arguments.case is None else DecodeCase.from_text(arguments.case)
    if case is not None and arguments.compile:
        case = case.replace(mode="compiled")
    compiled = arguments.compile or (case is not None and case.mode != "eager")
    examples = _whole(arguments, "max_examples", _COMPILED_EXAMPLES if compiled else _EXAMPLES)
    seed = _whole(arguments, "seed", 0, least=0)
    seconds = _seconds(arguments, "seconds", None)
    timeout = _seconds(arguments, "timeout", _COMPILED_TIMEOUT if compiled else _TIMEOUT)
    spec = _order(arguments, case)
    for file in (arguments.json, arguments.script):
        if file is not None:
            check_writable(file)
    if case is None:
        _require_hypothesis()
    device_or_error(spec.device)

    from harness.function.load import TargetError
    from harness.function.search import check
    from harness.function.text import render, to_json
    from harness.script.function_script import target_script

    progress = progress_to_stderr()
    progress(f"importing {spec.target}")
    try:
        with _runner(spec, arguments.no_isolation, timeout) as runner:
            domain = spec.domain(runner.facts.features)
            if case is not None and (reason := domain.refuses(case)):
                raise UsageError(f"--case: {reason}")
            cases = _drawn(domain, seed, arguments.compile) if case is None else [case]
            result = check(
                spec,
                runner,
                cases,
                progress,
                max_examples=examples,
                seconds=seconds,
                shrinks=case is None,
            )
    except TargetError as error:
        raise UsageError(str(error)) from None
    progress("done")
    print(render(result), end="")
    if arguments.json is not None:
        write_atomically(arguments.json, to_json(result))
    if arguments.script is not None and result.case is not None:
        text = target_script(
            spec.target,
            result.case,
            spec.device,
            result.verdict,
            precision=result.facts.precision,
            timeout=timeout,
        )
        write_atomically(arguments.script, text)
    if not result.tally.examples:
        return USAGE
    return OK if result.verdict.passes else NOT_OK


def _order(arguments: argparse.Namespace, case: DecodeCase | None) -> TargetSpec:
    from harness.function.run import TargetSpec

    supports, dtypes, precision = _names(arguments.supports), _names(arguments.dtypes), None
    if arguments.precision is not None:
        pairs = [part.partition("=") for part in _names(arguments.precision) or ()]
        if any(not (name and equals and value) for name, equals, value in pairs):
            raise UsageError(f"--precision: {arguments.precision!r} is not NAME=DTYPE,...")
        precision = {name: value for name, _, value in pairs}
    low, high = _range(arguments.cache_len)
    if case is not None:
        low = high = case.cache_len
    try:
        spec = TargetSpec(
            target=arguments.target,
            device=arguments.device,
            supports=None if supports is None else known_features(supports),
            precision=precision,
            head_dims=_head_dims(arguments.head_dims),
            cache_len=(low, high),
            dtypes=DTYPES if dtypes is None else tuple(map(_short, dtypes)),
        )
        spec.domain(spec.supports or ())
    except DomainError as error:
        raise UsageError(str(error)) from None
    return spec


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _short(dtype: str) -> str:
    return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(dtype, dtype)


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _head_dims(text: str | None) -> tuple[int, ...]:
    if text is None:
        return HEAD_DIMS
    names = text.split(",")
    if not all(_digits(name) for name in names):
        raise UsageError(f"--head-dims: {text!r} is not whole numbers joined by commas")
    return tuple(dict.fromkeys(int(name) for name in names))


def _range(text: str | None) -> tuple[int, int]:
    if text is None:
        return Domain.cache_len
    low, colon, high = text.partition(":")
    if not (colon and _digits(low) and _digits(high)):
        raise UsageError(f"--cache-len: {text!r} is not MIN:MAX")
    return int(low), int(high)


def _whole(arguments: argparse.Namespace, name: str, default: int, *, least: int = 1) -> int:
    text = getattr(arguments, name)
    if text is None:
        return default
    if not _digits(text) or int(text) < least:
        raise UsageError(f"--{name.replace('_', '-')}: {text!r} is not a whole number >= {least}")
    return int(text)


def _seconds(arguments: argparse.Namespace, name: str, default: float | None) -> Any:
    text = getattr(arguments, name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"--{name}: {text!r} is not a number of seconds > 0")
    return value


def _contradictions(arguments: argparse.Namespace) -> None:
    if arguments.case is not None:
        for name in ("max_examples", "seconds", "seed", "cache_len", "dtypes"):
            if getattr(arguments, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag}: says what to draw, but --case draws nothing")
    if arguments.no_isolation and arguments.timeout is not None:
        raise UsageError("--timeout: needs a process of its own, so not with --no-isolation")
    if arguments.json is not None and arguments.json == arguments.script:
        raise UsageError(f"--json and --script: both name {arguments.json}")


def _require_hypothesis() -> None:
    if importlib.util.find_spec("hypothesis") is None:
        raise UsageError(
            "drawing cases needs Hypothesis: pip install 'flexdecode-harness[strategies]',"
            " or name a case with --case"
        )


def _drawn(domain: Domain, seed: int, compiled: bool) -> Iterator[DecodeCase]:
    from harness.strategies.functions import domain_cases

    return domain_cases(domain, seed, compiled_geometries=_COMPILED_GEOMETRIES if compiled else 0)


@contextlib.contextmanager
def _runner(spec: TargetSpec, here: bool, timeout: float) -> Iterator[Runner]:
    """The target in a worker, or in this process, where the case is written down before it runs:
    nobody else would know it after a crash."""
    if not here:
        from harness.function.worker import Worker

        with Worker(spec, timeout) as worker:
            yield worker
        return
    from harness.function.run import LocalRunner

    handle, name = tempfile.mkstemp(prefix="harness-check-", suffix=".txt")
    print(f"running in this process; the case that runs is always in {name}", file=sys.stderr)

    def write_down(case: DecodeCase) -> None:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{case}\n".encode(), 0)

    try:
        yield LocalRunner(spec, write_down)
    finally:
        os.close(handle)
        os.unlink(name)
