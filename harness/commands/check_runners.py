"""The runners of ``check``, which run the target."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from harness.case.program import Task
from harness.function.item import Runner
from harness.function.run import LocalRunner
from harness.function.spec import TargetSpec
from harness.function.worker import Worker


@contextlib.contextmanager
def runners(spec: TargetSpec, timeout: float, count: int, *, here: bool) -> Iterator[list[Runner]]:
    """So many runners of the target, each in a worker; or one in this process. There each case is
    written to a file before it runs, since after a crash nothing else would tell which it was."""
    if not here:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(Worker(spec, timeout)) for _ in range(count)]
        return
    if spec.triton:
        # Triton reads it when its functions are decorated.
        os.environ["TRITON_INTERPRET"] = "1"
    handle, name = tempfile.mkstemp(prefix="harness-check-", suffix=".txt")
    print(f"running in this process; the case that runs is always in {name}", file=sys.stderr)

    def write_down(case: Task) -> None:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{case}\n".encode(), 0)

    try:
        yield [LocalRunner(spec, write_down)]
    finally:
        os.close(handle)
        os.unlink(name)
