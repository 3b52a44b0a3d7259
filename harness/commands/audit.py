"""``python -m harness audit``: a model that decodes, against one uncached forward in float64, or a
script, each of its attention calls against its own mask."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.audit_script import audit_script
from harness.commands.kinds import PROJECTS, refuse_other_kinds
from harness.commands.needs import missing
from harness.commands.options import (
    INTERRUPTED,
    NOT_OK,
    OK,
    USAGE,
    UsageError,
    input_file,
    names,
    output_folder,
    sharing,
    whole,
)
from harness.support.files import write_atomically
from harness.support.progress import progress_to_stderr

if TYPE_CHECKING:
    from harness.auditing.model import Configuration
    from harness.auditing.run import Audit
    from harness.auditing.scenario import Scenario
    from harness.script.package import Package

_OF_PROJECTS = (
    "seed",
    "models",
    "caches",
    "attention",
    "checkout",
    "scenarios",
    "against",
    "scripts",
    "jobs",
    "compile",
)


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "audit",
        help="which layer and step of a model's decoding is wrong, and whose fault it is",
        description="Of a project: runs tiny models with random weights through prefill, decoding,"
        " chunks, rollbacks and padding, and judges every attention call. Of a script: runs it,"
        " judges every attention call against its own mask, and says which slots each attends"
        " and where two calls on the same keys and values differ (docs/audit.md).",
        usage="%(prog)s [OPTIONS] {transformers,gpt-fast}\n       %(prog)s [--json FILE]"
        " SCRIPT.py [ARGS]",
        parents=sharing("--seed", "--json"),
    )
    parser.set_defaults(run=run, parser=parser)
    of = f"{' or '.join(PROJECTS)}, or a script, path/to/SCRIPT.py"
    parser.add_argument("target", metavar="TARGET", help=of)
    of = "after a script: all that follows is its own; options of the audit come before it"
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="ARGS", help=of)
    parser.add_argument("--models", type=names, metavar="NAMES", help="of transformers")
    parser.add_argument("--caches", type=names, metavar="NAMES", help="of transformers")
    parser.add_argument("--attention", type=names, metavar="NAMES", help="of transformers")
    parser.add_argument(
        "--checkout", type=Path, metavar="DIR", help="the folder of gpt-fast, as its user has it"
    )
    parser.add_argument("--scenarios", type=names, metavar="NAMES", help="default: all")
    parser.add_argument(
        "--against",
        type=input_file,
        metavar="FILE",
        help="JSON of an earlier audit: say what came out otherwise",
    )
    parser.add_argument(
        "--scripts",
        type=output_folder,
        metavar="DIR",
        help="write scripts of what is wrong there: the attention call, with torch alone, and the"
        " model, with its package",
    )
    parser.add_argument(
        "--jobs", type=whole(1), default=1, metavar="N", help="processes (default 1)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile as the project does: gpt-fast its decoding, transformers flex_attention and,"
        " with a static cache, the model; without, all runs eagerly",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the audit, print its table and return the exit code."""
    parser = vars(arguments).pop("parser")  # which does not travel to other processes
    if arguments.target.endswith(".py"):
        for flag in _OF_PROJECTS:
            if getattr(arguments, flag) != parser.get_default(flag):
                raise UsageError(f"--{flag}: is for {' and '.join(PROJECTS)}, not for a script")
        return audit_script(arguments.target, arguments.rest, arguments.json)
    _read_further(arguments, parser)
    _refuse(arguments)
    if reason := missing(arguments):
        raise UsageError(reason)
    return _audit_project(arguments)


def _read_further(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Read what follows a project, which are options; what follows a script was left alone."""
    if arguments.rest:
        parser.parse_args([*arguments.rest, arguments.target], arguments)
        del arguments.parser
    for word in (arguments.target, *arguments.rest):
        refuse_other_kinds("audit", word)
    if arguments.rest or arguments.target not in PROJECTS:
        word = " ".join([arguments.target, *arguments.rest])
        allowed = f"one of {' '.join(PROJECTS)}, nor a script, path/to/SCRIPT.py"
        raise UsageError(f"TARGET: {word!r} is not {allowed}")


def _refuse(arguments: argparse.Namespace) -> None:
    """Raise where an option is for another project."""
    transformers = arguments.target == "transformers"
    _only("--checkout", arguments.checkout, not transformers, "gpt-fast")
    for option in ("models", "caches", "attention"):
        flag = f"--{option}"
        _only(flag, getattr(arguments, option), transformers, "transformers")


def _audit_project(arguments: argparse.Namespace) -> int:
    import torch

    from harness.auditing.scenario import SCENARIOS
    from harness.auditing.text import changes, render, to_json, worst
    from harness.paths.compile import why_not
    from harness.support.environment import environment, one_line

    if arguments.compile and (reason := why_not("cpu")):
        raise UsageError(f"--compile: {reason}")
    wanted = _some("--scenarios", arguments.scenarios, tuple(s.name for s in SCENARIOS))
    scenarios = [s for s in SCENARIOS if s.name in wanted]
    project = _project(arguments)
    audits: list[Audit] = []
    interrupted = False
    try:
        _run(project.configurations, scenarios, arguments, audits)
    except KeyboardInterrupt:
        interrupted = True
    versions = {**project.version, **environment(), "compiled": arguments.compile}
    versions["threads"] = torch.get_num_threads() if arguments.jobs == 1 else 1
    if audits:
        print(render(audits, one_line(versions)), end="")
    if arguments.scripts is not None:
        _write_scripts(audits, project, arguments)
    if arguments.against is not None:
        try:
            lines = list(changes(arguments.against.read_text(encoding="utf-8"), audits))
        except ValueError as error:
            raise UsageError(f"--against: {arguments.against}: {error}") from None
        print("", *lines, sep="\n")
    if arguments.json is not None:
        write_atomically(arguments.json, to_json(audits, versions))
    if interrupted:
        print("interrupted")
        return INTERRUPTED
    verdict = worst(audits)
    if not any(a.calls for a in audits):
        return USAGE
    return OK if verdict.passes else NOT_OK


def _run(
    configurations: Iterable[Configuration],
    scenarios: list[Scenario],
    arguments: argparse.Namespace,
    audits: list[Audit],
) -> None:
    """Add an audit of each configuration in each scenario to ``audits``, in this order, whatever
    the number of jobs; those that share a reference are one piece of work."""
    progress = progress_to_stderr()
    if arguments.jobs == 1:
        for audit in _audited(configurations, scenarios, arguments):
            audits.append(audit)
            progress(f"{len(audits)} done, {audit.configuration}, {audit.scenario.name}")
        return
    from harness.isolation.campaign import gather
    from harness.isolation.pool import processes

    groups = itertools.groupby(configurations, lambda one: one.uncached)
    pieces = [(arguments, [one.name for one in group]) for _, group in groups]
    done: dict[int, list[Audit]] = {}
    try:
        with processes(arguments.jobs) as executor:
            gather(
                executor,
                _piece,
                pieces,
                at_once=arguments.jobs,
                told=lambda count: progress(f"{count} of {len(pieces)} pieces done"),
                results=done,
            )
    finally:
        audits += [audit for place in sorted(done) for audit in done[place]]


def _piece(arguments: argparse.Namespace, names: list[str]) -> list[Audit]:
    """The audits of the configurations of these names, made anew in this process."""
    from harness.auditing.scenario import SCENARIOS

    wanted = _some("--scenarios", arguments.scenarios, tuple(s.name for s in SCENARIOS))
    own = [one for one in _project(arguments).configurations if one.name in names]
    scenarios = [s for s in SCENARIOS if s.name in wanted]
    return [audit.portable() for audit in _audited(own, scenarios, arguments)]


def _audited(
    configurations: Iterable[Configuration],
    scenarios: list[Scenario],
    arguments: argparse.Namespace,
) -> Iterator[Audit]:
    from harness.auditing.reference import References
    from harness.auditing.run import audit

    references = References()
    for configuration, scenario in itertools.product(configurations, scenarios):
        with contextlib.nullcontext() if arguments.compile else _eagerly():
            found = audit(configuration, scenario, arguments.seed, references)
        yield found


def _write_scripts(audits: list[Audit], project: _Project, arguments: argparse.Namespace) -> None:
    from harness.commands.audit_scripts import written

    print()
    for line in written(
        audits,
        arguments.scripts,
        project.package,
        [] if arguments.checkout is None else [str(arguments.checkout)],
        arguments.seed,
        compiled=arguments.compile,
    ):
        print(line)


@contextlib.contextmanager
def _eagerly() -> Iterator[None]:
    """Nothing is compiled, whatever a model asks for."""
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


def _only(flag: str, given: object, allowed: bool, project: str) -> None:
    if given is not None and not allowed:
        raise UsageError(f"{flag}: is for {project}")


def _some(flag: str, given: tuple[str, ...] | None, allowed: tuple[str, ...]) -> tuple[str, ...]:
    for name in given or ():
        if name not in allowed:
            raise UsageError(f"{flag}: {name!r} is not one of {' '.join(allowed)}")
    return given or allowed


@dataclass(frozen=True)
class _Project:
    """The configurations of a project, its version, and how scripts use it."""

    configurations: Iterator[Configuration]
    version: dict[str, str | int | bool]
    package: Callable[[Audit], Package]


def _project(arguments: argparse.Namespace) -> _Project:
    from harness.script.package import gpt_fast_package, transformers_package

    if arguments.target == "transformers":
        import transformers

        from harness.auditing import transformers_models as here

        found = here.configurations(
            _some("--models", arguments.models, here.MODELS),
            _some("--caches", arguments.caches, here.CACHES),
            _some("--attention", arguments.attention, here.ATTENTIONS),
            compiled=arguments.compile,
        )
        version = transformers.__version__
        package = partial(transformers_package, version=version, compiled=arguments.compile)
        return _Project(found, {"transformers": version}, package)

    from harness.auditing import gpt_fast

    if arguments.checkout is None:
        raise UsageError("--checkout: needed, the folder of gpt-fast")
    try:
        checkout = gpt_fast.Checkout.at(arguments.checkout)
    except gpt_fast.CheckoutError as error:
        raise UsageError(f"--checkout: {error}") from None
    package = partial(gpt_fast_package, commit=checkout.commit, compiled=arguments.compile)
    found = checkout.configurations(compiled=arguments.compile)
    return _Project(found, {"gpt-fast": checkout.commit}, package)
