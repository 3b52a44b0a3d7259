"""``python -m harness check``: search for a case on which a user's function fails."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from typing import TYPE_CHECKING, Any

from harness.case import DTYPES, DecodeCase
from harness.case.domain import CACHE_LEN, HEAD_DIMS, Domain, DomainError, known_features
from harness.case.features import FEATURES
from harness.case.loop import STEPS, Loop, loops_from_text
from harness.case.program import ACTIONS
from harness.commands.kinds import refuse_other_kinds
from harness.commands.options import (
    INTERRUPTED,
    NOT_OK,
    OK,
    USAGE,
    UsageError,
    draws_nothing,
    dtypes,
    names,
    output_file,
    seconds,
    sharing,
    slots,
    some_of,
    whole,
    whole_numbers,
)
from harness.support.files import write_atomically
from harness.support.progress import progress_to_stderr

if TYPE_CHECKING:
    from harness.function.item import Item
    from harness.function.schedule import Source
    from harness.function.search import SearchResult
    from harness.function.spec import TargetSpec

_COMPILED_GEOMETRIES = 4
_TIMEOUT, _SLOW_TIMEOUT = 30.0, 300.0


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "check",
        help="search for a case on which a function, or a cache class, of yours fails",
        description="Judge decode(query, key_cache, value_cache, input_pos, **options) on drawn"
        " cases (docs/check.md), or a cache class on drawn programs (docs/serving.md).",
        parents=sharing("--device", "--json", "--script", "--no-isolation"),
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    plot = "write a PNG of the weight that each slot gets where it fails, beside the one due"
    add("--plot", type=output_file, metavar="FILE", help=plot)
    add("target", metavar="TARGET", help="package.module:NAME or path/to/file.py:NAME")
    supports = f"of {','.join(FEATURES)}; replaces the attribute"
    add("--supports", type=_features, metavar="NAMES", help=supports)
    requires = "features that every case has; replaces the attribute"
    add("--requires", type=_features, metavar="NAMES", help=requires)
    replaces = "[DTYPE.]NAME=DTYPE,...; replaces the attribute"
    add("--precision", type=_precision, metavar="NAME=DTYPE,...", help=replaces)
    head_dims = f"replaces the attribute (default {','.join(map(str, HEAD_DIMS))})"
    add("--head-dims", type=whole_numbers, metavar="D,...", help=head_dims)
    of = f"replaces the attribute (default {','.join(DTYPES)})"
    add("--dtypes", type=dtypes, metavar="NAMES", help=of)
    add("--triton", action="store_true", help="run Triton kernels in its interpreter, watched")
    add("--compile", action="store_true", help="torch.compile the function, count its graphs")
    default = ":".join(map(str, CACHE_LEN))
    add("--cache-len", type=slots, metavar="MIN:MAX", help=f"slots allocated (default {default})")
    drawn = "the most drawn cases (default 200; --thorough 1000; compiled or --triton 40)"
    add("--max-examples", type=whole(1), metavar="N", help=drawn)
    add("--thorough", action="store_true", help="minutes instead of seconds: more and larger cases")
    add("--seconds", type=seconds, metavar="S", help="stop drawing after this time")
    add("--jobs", type=whole(1), default=1, metavar="N", help="cases at once (default 1)")
    limit = f"of one case (default {_TIMEOUT:g}; compiled or --triton {_SLOW_TIMEOUT:g})"
    add("--timeout", type=seconds, metavar="S", help=limit)
    add("--seed", type=whole(), metavar="N", help="of the search (default 0)")
    add("--case", metavar="ID", help="run this case alone")
    forms = " ".join(kind.form for kind in STEPS.values())
    add("--calls", metavar="STEPS", help=f"after --case, further calls on its tensors: {forms}")
    add("--after", metavar="LOOPS", help="cases and calls, joined by ;, that come before --case")
    forms = " ".join(kind.form for kind in ACTIONS.values())
    add("--steps", metavar="STEPS", help=f"after --case, of a cache class: [page:N] {forms}")
    hint = "a call may overwrite the output of an earlier one; replaces the attribute"
    add("--reuses-output", action="store_true", default=None, help=hint)
    allow = "do not fail for it: imprecise (figures are printed all the same)"
    add("--allow", type=some_of("imprecise"), default=(), metavar="NAMES", help=allow)


def run(arguments: argparse.Namespace) -> int:
    """Check a function and return the exit code."""
    refuse_other_kinds("check", arguments.target)
    _contradictions(arguments)
    if ":" in arguments.target:
        _find(arguments.target)
    case = None if arguments.case is None else DecodeCase.from_text(arguments.case)
    if case is not None and arguments.compile:
        case = case.replace(mode="compiled")
    item = None if case is None else _item(case, arguments.calls, arguments.after)
    compiled = arguments.compile or (case is not None and case.mode != "eager")
    slow = compiled or arguments.triton
    timeout = arguments.timeout or (_SLOW_TIMEOUT if slow else _TIMEOUT)
    spec = _spec(arguments, item)

    from harness.commands.check_class import check_programs
    from harness.commands.check_runners import runners
    from harness.function.search import check
    from harness.function.spec import TargetError

    progress = progress_to_stderr()
    progress(f"importing {spec.target}")
    try:
        with runners(spec, timeout, arguments.jobs, here=arguments.no_isolation) as (
            runner,
            *others,
        ):
            domain = runner.facts.domain
            if runner.facts.abilities is not None:
                if arguments.plot is not None:
                    what = "shows a function's weights, not those of a cache class"
                    raise UsageError(f"--plot: {what}")
                if arguments.jobs > 1:
                    raise UsageError("--jobs: is for a function, not for a cache class")
                return check_programs(arguments, spec, runner, progress)
            _refuse(arguments, item, domain)
            result = check(
                spec,
                runner,
                _one(item) if item is not None else _drawn(domain, arguments),
                progress,
                others=others,
                seconds=arguments.seconds,
                shrinks=case is None,
                allows=arguments.allow,
            )
    except TargetError as error:
        raise UsageError(str(error)) from None
    if not result.interrupted:
        progress("done")
    return _told(arguments, spec, result, timeout)


def _told(
    arguments: argparse.Namespace, spec: TargetSpec, result: SearchResult, timeout: float
) -> int:
    """Print what a search found, write what is asked for and return the exit code."""
    from harness.commands.check_plot import write_plot
    from harness.function.calls import Calls
    from harness.function.text import render, to_json
    from harness.script.function_script import target_script

    print(render(result), end="")
    if arguments.json is not None:
        write_atomically(arguments.json, to_json(result))
    write_plot(arguments.plot, result)
    alone = not isinstance(result.item, Calls)
    if arguments.script is not None and not alone:
        print("--script: not written: it would show a case alone, not calls", file=sys.stderr)
    if arguments.script is not None and result.case is not None and not result.scriptable:
        print("--script: not written: it would judge a call by its budget", file=sys.stderr)
    shown = alone and result.scriptable
    if arguments.script is not None and result.case is not None and shown:
        text = target_script(
            spec.target,
            result.case,
            spec.device,
            result.verdict,
            precision=result.facts.precisions[result.case.dtype],
            timeout=timeout,
            triton=spec.triton,
        )
        write_atomically(arguments.script, text)
    if result.interrupted:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    if not result.tally.judged:
        return USAGE
    return OK if result.verdict.passes else NOT_OK


def _item(case: DecodeCase, calls: str | None, after: str | None) -> Item:
    from harness.function.calls import Calls
    from harness.function.item import Single

    if calls is None and after is None:
        return Single(case)
    loop = Loop.from_text(f"{case} {calls or ''}")
    return Calls(loop, () if after is None else loops_from_text(after))


def _refuse(arguments: argparse.Namespace, item: Item | None, domain: Domain) -> None:
    """Raise where a function cannot take what is named."""
    if arguments.steps is not None:
        raise UsageError(f"--steps: {arguments.target} is a function, which takes --calls")
    if item is None:
        return
    draws_nothing(arguments, "--case")
    for named in item.cases:
        if reason := domain.refuses(named):
            raise UsageError(f"{'--case' if named == item.case else '--after'}: {reason}")


def _find(target: str) -> None:
    """Raise where the file of a TARGET is not there, before torch is imported."""
    from harness.function.spec import TargetError, place_and_name

    try:
        place_and_name(target)
    except TargetError as error:
        raise UsageError(str(error)) from None


def _spec(arguments: argparse.Namespace, item: Item | None) -> TargetSpec:
    from harness.function.declarations import Declarations
    from harness.function.spec import TRITON_CACHE_LEN, TargetSpec

    low, high = arguments.cache_len or (TRITON_CACHE_LEN if arguments.triton else CACHE_LEN)
    # A case that is named is taken, whatever its length; the diagnosis draws from the others too.
    lengths = [case.cache_len for case in item.cases] if item is not None else []
    try:
        spec = TargetSpec(
            target=arguments.target,
            device=arguments.device,
            declared=Declarations(
                arguments.supports,
                arguments.requires,
                arguments.dtypes,
                arguments.head_dims,
                arguments.precision,
                arguments.reuses_output,
            ),
            cache_len=(min(low, *lengths, high), max(high, *lengths, low))
            if lengths
            else (low, high),
            triton=arguments.triton,
        )
        spec.declared.domain(spec.cache_len)
    except DomainError as error:
        raise UsageError(str(error)) from None
    return spec


def _features(text: str) -> tuple[str, ...]:
    try:
        return known_features(names(text))
    except DomainError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("supports: ")) from None


def _precision(text: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for part in names(text):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise argparse.ArgumentTypeError(f"{text!r} is not [DTYPE.]NAME=DTYPE,...")
        dtype, dot, own = name.partition(".")
        if dot:
            given.setdefault(dtype, {})[own] = value
        else:
            given[name] = value
    return given


def _contradictions(arguments: argparse.Namespace) -> None:
    for name in ("calls", "after", "steps"):
        if getattr(arguments, name) is not None and arguments.case is None:
            raise UsageError(f"--{name}: needs --case")
    if arguments.no_isolation and arguments.timeout is not None:
        raise UsageError("--timeout: needs a process of its own, so not with --no-isolation")
    if arguments.no_isolation and arguments.jobs > 1:
        raise UsageError("--jobs: needs processes of their own, so not with --no-isolation")
    if arguments.case is not None and arguments.jobs > 1:
        raise UsageError("--jobs: is for drawn cases, so not with --case")
    if arguments.thorough and (arguments.compile or arguments.triton):
        raise UsageError("--thorough: for calls that are fast, so not with --compile or --triton")
    if arguments.triton and (arguments.compile or arguments.device != "cpu"):
        raise UsageError("--triton: runs on the CPU, so not with --compile or --device")
    files = {"--json": arguments.json, "--script": arguments.script, "--plot": arguments.plot}
    for (one, file), (other, same) in itertools.combinations(files.items(), 2):
        if file is not None and file == same:
            raise UsageError(f"{one} and {other}: both name {file}")


def _one(item: Item) -> list[Source]:
    from harness.function.schedule import Source

    return [Source("named", 1, [item])]


def _drawn(domain: Domain, arguments: argparse.Namespace) -> list[Source]:
    from harness.function.sources import DEFAULT, SLOW, THOROUGH, sources

    effort = THOROUGH if arguments.thorough else DEFAULT
    if arguments.compile or arguments.triton:
        effort = SLOW
    if arguments.max_examples is not None:
        effort = dataclasses.replace(effort, examples=arguments.max_examples)
    return sources(
        domain,
        arguments.seed or 0,
        effort,
        compiled_geometries=_COMPILED_GEOMETRIES if arguments.compile else 0,
        interpreted=arguments.triton,
    )
