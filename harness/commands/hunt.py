"""``python -m harness hunt``: search the compiled kernels for what is wrong."""

from __future__ import annotations

import argparse
import shlex
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.options import (
    INCOMPLETE,
    INTERRUPTED,
    NOT_OK,
    OK,
    USAGE,
    UsageError,
    duration,
    output_folder,
    sharing,
    some_of,
    whole,
)
from harness.support.files import UnwritableFile, write_atomically
from harness.support.progress import Progress, progress_to_stderr

if TYPE_CHECKING:
    from harness.hunting.hunt import Hunt
    from harness.hunting.traps import Trap

_OUT = Path("hunt")
_CONNECT = 30  # seconds


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "hunt",
        help="search the compiled kernels of FlexAttention for what is wrong",
        description="Geometries that cover every pair of what kernels are specialised to, many"
        " cases each; what fails is shrunk, told apart and written as a script. Exit 1 where"
        " something was found that is no known failure of torch, 3 where something was seen that"
        " is not settled, or work was lost.",
        parents=sharing("--seed"),
    )
    parser.set_defaults(run=run)
    kernels = some_of("cpp", "triton", "cuda")
    what = "cpp (default), triton (a GPU's, interpreted), cuda (on a GPU), or some with commas"
    parser.add_argument("--kernels", type=kernels, default=("cpp",), metavar="NAMES", help=what)
    what = "geometries of each kernels (default: what there is time for)"
    parser.add_argument("--geometries", type=whole(1), default=10**9, metavar="N", help=what)
    what = "how long to hand out work: 90s, 20m (default), 8h"
    parser.add_argument("--seconds", type=duration, default="20m", metavar="TIME", help=what)
    parser.add_argument("--jobs", type=whole(1), default=1, metavar="N", help="at once (default 1)")
    what = "of a Dask cluster, whose workers do the work (extra dask); --jobs is then theirs"
    parser.add_argument("--scheduler", metavar="ADDRESS", help=what)
    where = f"where journal, scripts and report go (default {_OUT})"
    parser.add_argument("--out", type=output_folder, default=_OUT, metavar="DIR", help=where)
    parser.add_argument("--resume", action="store_true", help="go on with the journal in that DIR")


def run(arguments: argparse.Namespace) -> int:
    """Hunt, write what was found, print it and return the exit code."""
    from harness.hunting.traps import TRAPS, spring
    from harness.hunting.work import close_workers
    from harness.interpreter.gpu import missing
    from harness.paths.compile import why_not

    here = arguments.scheduler is None
    for name, reason in (("cpp", why_not("cpu")), ("triton", missing()), ("cuda", _no_gpu())):
        if name in arguments.kernels and reason and (here or name != "cuda"):
            raise UsageError(f"--kernels {name}: {reason}")
    progress = progress_to_stderr()
    hunt = _begun(arguments, progress)
    traps: list[Trap] = []
    interrupted, unwritable = False, None
    executor, jobs = executor_of(arguments)
    try:
        hunt.run(executor, jobs)
        progress("errors of the caller")
        traps += map(spring, TRAPS)
    except KeyboardInterrupt:
        interrupted = True
    except UnwritableFile as error:
        # The disk may be full: what is known is told all the same.
        unwritable = error
    finally:
        # What still runs ends with its worker.
        executor.shutdown(wait=False, cancel_futures=True)
        close_workers()
    _tell(arguments, hunt, traps, interrupted, unwritable)
    return _code(hunt, interrupted)


def _begun(arguments: argparse.Namespace, progress: Progress) -> Hunt:
    """The hunt with its journal, which another one may have begun."""
    from harness.hunting.hunt import Hunt
    from harness.hunting.journal import Journal, JournalError
    from harness.support.environment import environment

    settings = {
        "kernels": list(arguments.kernels),
        "seed": arguments.seed,
        "torch": str(environment("cpu")["torch"]),
    }
    file = arguments.out / "journal.jsonl"
    try:
        journal = Journal(file, settings, resume=arguments.resume)
    except JournalError as error:
        raise UsageError(str(error)) from None
    given = arguments.kernels, arguments.seed, journal, progress
    try:
        return Hunt(*given, arguments.seconds, arguments.geometries)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"{file}: is not a journal of this version: {what}") from None


def _tell(
    arguments: argparse.Namespace,
    hunt: Hunt,
    traps: list[Trap],
    interrupted: bool,
    unwritable: UnwritableFile | None,
) -> None:
    from harness.hunting import text

    words = ["python", "-m", "harness", "hunt", "--kernels", ",".join(arguments.kernels)]
    words += ["--seconds", f"{arguments.seconds:g}s", "--jobs", str(arguments.jobs)]
    words += ["--seed", str(arguments.seed)]
    words += ["--geometries", str(arguments.geometries)] if arguments.geometries < 10**9 else []
    command = shlex.join(words)
    told = text.to_markdown(hunt, traps, command, interrupted)
    print(told, end="", flush=True)
    if unwritable is not None:
        raise unwritable
    for number, one in enumerate(text.failures(hunt), 1):
        if one.script:
            write_atomically(arguments.out / text.script_name(number, one), one.script)
    write_atomically(arguments.out / "report.md", told)
    write_atomically(arguments.out / "report.json", text.to_json(hunt, traps, command, interrupted))


def executor_of(arguments: argparse.Namespace) -> tuple[Executor, int]:
    """What runs the work, and how much of it at once."""
    if arguments.scheduler is None:
        return ThreadPoolExecutor(arguments.jobs), arguments.jobs
    from distributed import Client

    try:
        client = Client(arguments.scheduler, timeout=_CONNECT)
    except (OSError, ValueError) as error:
        raise UsageError(f"--scheduler: {arguments.scheduler}: {error}") from None
    if "cuda" not in arguments.kernels:
        return client.get_executor(pure=False), max(1, sum(client.nthreads().values()))
    # A worker does as much work at once as it says that it has GPUs.
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    gpus = sum(worker["resources"].get("GPU", 0) for worker in workers)
    if not gpus:
        raise UsageError("--kernels cuda: no worker has the resource GPU: --resources GPU=1")
    return client.get_executor(pure=False, resources={"GPU": 1}), int(gpus)


def _no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def _code(hunt: Hunt, interrupted: bool) -> int:
    from harness.hunting.text import unsettled

    if interrupted:
        return INTERRUPTED
    if any(not (one.loud or one.known) for one in hunt.found):
        return NOT_OK
    if unsettled(hunt) or hunt.lost:
        return INCOMPLETE
    return OK if any(counts.cases for counts in hunt.counts.values()) else USAGE
