"""``python -m harness hunt``: search the compiled kernels for what is wrong."""

from __future__ import annotations

import argparse
import shlex
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.options import (
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
from harness.support.files import write_atomically
from harness.support.progress import progress_to_stderr

if TYPE_CHECKING:
    from harness.hunting.hunt import Hunt

_OUT = Path("hunt")
_CONNECT = 30  # seconds


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "hunt",
        help="search the compiled kernels of FlexAttention for what is wrong",
        description="Geometries that cover every pair of what kernels are specialised to, many"
        " cases each; what fails is made small, told apart and written as a script. Exit 1 where"
        " something was found that is no known failure of torch.",
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
    from harness.hunting import text
    from harness.hunting.hunt import Hunt
    from harness.hunting.journal import Journal, JournalError
    from harness.hunting.traps import TRAPS, spring
    from harness.hunting.work import close_workers
    from harness.interpreter.gpu import missing
    from harness.paths.compile import why_not
    from harness.support.environment import environment

    here = arguments.scheduler is None
    for name, reason in (("cpp", why_not("cpu")), ("triton", missing()), ("cuda", _no_gpu())):
        if name in arguments.kernels and reason and (here or name != "cuda"):
            raise UsageError(f"--kernels {name}: {reason}")
    settings = {
        "kernels": list(arguments.kernels),
        "seed": arguments.seed,
        "torch": str(environment("cpu")["torch"]),
    }
    try:
        journal = Journal(arguments.out / "journal.jsonl", settings, resume=arguments.resume)
    except JournalError as error:
        raise UsageError(str(error)) from None
    progress = progress_to_stderr()
    hunt = Hunt(
        arguments.kernels,
        arguments.seed,
        journal,
        progress,
        arguments.seconds,
        arguments.geometries,
    )
    interrupted = False
    executor, jobs = executor_of(arguments)
    try:
        hunt.run(executor, jobs)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        # What still runs ends with its worker.
        executor.shutdown(wait=False, cancel_futures=True)
        close_workers()
    progress("errors of the caller")
    traps = [] if interrupted else [spring(name) for name in TRAPS]
    words = ["python", "-m", "harness", "hunt", "--kernels", ",".join(arguments.kernels)]
    words += ["--seconds", f"{arguments.seconds:g}s", "--jobs", str(arguments.jobs)]
    words += ["--seed", str(arguments.seed)]
    words += ["--geometries", str(arguments.geometries)] if arguments.geometries < 10**9 else []
    command = shlex.join(words)
    for number, one in enumerate(text.failures(hunt), 1):
        if one.script:
            write_atomically(arguments.out / text.script_name(number, one), one.script)
    told = text.to_markdown(hunt, traps, command, interrupted)
    write_atomically(arguments.out / "report.md", told)
    write_atomically(arguments.out / "report.json", text.to_json(hunt, traps, command, interrupted))
    print(told, end="")
    return _code(hunt, interrupted)


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
    if interrupted:
        return INTERRUPTED
    if not any(counts.cases for counts in hunt.counts.values()):
        return USAGE
    return NOT_OK if any(not (one.loud or one.known) for one in hunt.found) else OK
