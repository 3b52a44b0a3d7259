"""Worker: a process of its own for a function that may crash, hang, exhaust memory, print or exit.

There are two processes: a nursery, forked by a server that has imported what every run needs and
nothing of the user's, and its child, which loads the target and runs cases. When the child dies,
the nursery forks another one. Cases and outcomes travel over a socket, but no tensors: the child
makes the inputs and judges the output. Its answers are JSON, since unpickling what a broken process
sends is not safe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

from harness.case import DecodeCase
from harness.case.loop import Loop
from harness.case.program import Program, Task
from harness.function.child import END_OF_STDERR, MARK, write_mark
from harness.function.limits import GRACE, OWN_SECONDS
from harness.function.outcome import Outcome
from harness.function.run import Facts, LocalRunner
from harness.function.spec import TargetError, TargetSpec
from harness.isolation.server import ServerGone, fork
from harness.support.failure import HarnessFailed
from harness.support.frames import where
from harness.support.strict_json import from_text
from harness.verdict import Finding, Verdict

_LOAD_TIMEOUT = 300.0
_EXPLAIN_TIMEOUT = 120.0
# Of what the target writes to stderr, so many bytes are kept, and of a crash so many lines of so
# many characters are shown.
_STDERR_KEPT = 2**16
_LINES_SHOWN = 5
_LINE_SHOWN = 200
# What faulthandler prints when the process dies.
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (\S+)$', re.M)
_FAULTHANDLER = re.compile(
    r"Fatal Python error: |(Current thread|Thread) 0x|Extension modules: |  <no Python |  \.\.\.$"
)
_SOUND_FUNCTION, _SOUND_CLASS = "sdpa-full", "harness.serving.caches:DenseCache"
_NURSERY = "harness.function.child:nursery"


class Worker:
    """Runs cases in a child process that is replaced when it dies.

    Its processes get these variables beside those of this one's environment.

    Raises:
        TargetError: where the target cannot be loaded, or dies while it is.
        HarnessFailed: where the harness itself fails.
    """

    def __init__(
        self, spec: TargetSpec, timeout: float, environment: Mapping[str, str] | None = None
    ) -> None:
        self._timeout, self._device = timeout, spec.device
        # The child writes into this file which call of a loop it makes.
        self._mark = tempfile.TemporaryFile()  # noqa: SIM115  # close() ends it.
        # Triton reads it when its functions are decorated, so before anything is imported.
        variables = ({"TRITON_INTERPRET": "1"} if spec.triton else {}) | dict(environment or {})
        read, write = os.pipe()
        try:
            self._process = fork(_NURSERY, self._mark.fileno(), environment=variables, stderr=write)
        except ServerGone as error:
            os.close(read)
            raise TargetError(str(error)) from None
        finally:
            os.close(write)
        self._channel = self._process.channel
        self._stderr, self._ends = bytearray(), threading.Semaphore(0)
        self._reader = threading.Thread(target=self._read_stderr, args=(read,), daemon=True)
        self._reader.start()
        self._child: int | None = None
        self.history: list[Loop | Program] = []
        try:
            self._channel.send_bytes(spec.to_json().encode())
            self.facts = self._await_child()
        except BaseException:
            self.close()
            raise

    def run(self, case: Task, *, timeout: float | None = None, last_alone: bool = False) -> Outcome:
        """Judge the target on ``case`` in the child, within ``timeout`` seconds for each call of a
        loop; by default the worker's own limit. With ``last_alone``, make only its last call.

        Raises:
            TargetError: where the worker's processes are gone, or the target no longer loads.
            HarnessFailed: where the harness itself fails.
        """
        if self._child is None:
            self._await_child()
        limit = self._timeout if timeout is None else timeout
        self.history.append(Loop(case) if isinstance(case, DecodeCase) else case)
        reply = self._ask(case, limit, None, last_alone)
        if reply is None:
            number = self._marked()
            self._kill_child()
            ended = Outcome.found(Verdict.TIMEOUT, f"did not return within {limit:g} s")
        elif "died" in reply:
            self._child = None
            number = self._marked()
            ended = self._death(reply["died"])
        elif "failed" in reply:
            return self._unjudged(case, *reply["failed"])
        else:
            return Outcome.from_values(reply["outcome"])
        if isinstance(case, Program):
            return ended.in_step(number, case)
        return ended.in_call(number, case.calls) if isinstance(case, Loop) else ended

    def _unjudged(self, case: Task, line: str, trace: str) -> Outcome:
        """The outcome where judging raised: an ERROR of the target, since the harness can judge a
        sound implementation on the same case.

        Raises:
            HarnessFailed: where it cannot.
        """
        sound = _SOUND_CLASS if isinstance(case, Program) else _SOUND_FUNCTION
        try:
            LocalRunner(TargetSpec(sound, self._device)).run(case)
        except Exception:
            raise HarnessFailed(line, trace) from None
        return Outcome.found(Verdict.ERROR, f"its result cannot be judged: {line}")

    def fresh(self) -> bool:
        """Go on in a fresh child, unless the present one has not run anything."""
        if self._child is not None and self.history:
            self._kill_child()
        return True

    def _marked(self) -> int:
        """The number of the call that the child makes or made last."""
        return int(os.pread(self._mark.fileno(), MARK, 0) or 0)

    def diagnosed(
        self, case: DecodeCase | Program, outcome: Outcome, *, brief: bool = False
    ) -> Outcome:
        """``outcome`` with a diagnosis, or as it is where the diagnosis kills the child or takes
        too long."""
        if not outcome.explicable:
            return outcome
        if self._child is None:
            self._await_child()
        reply = self._ask(case, max(self._timeout, _EXPLAIN_TIMEOUT), outcome, brief)
        if reply is None:
            self._kill_child()
        elif "died" in reply:
            self._child = None
        elif "failed" in reply:
            sentence = (
                f"the diagnosis failed, which is a fault of the harness: {reply['failed'][0]}"
            )
            return dataclasses.replace(outcome, sentences=(sentence,))
        else:
            explained = Outcome.from_values(reply["outcome"])
            # The child may have failed during the diagnosis, so the findings are those of the run.
            return outcome.explained_by(explained)
        return outcome

    def _ask(
        self, case: Task, limit: float, outcome: Outcome | None, brief: bool
    ) -> dict[str, Any] | None:
        self._stderr.clear()
        write_mark(self._mark.fileno(), 0)
        try:
            self._channel.send((case, limit, outcome, brief))
        except OSError:
            raise TargetError("the worker process is gone") from None
        return self._answer(limit)

    def _answer(self, limit: float) -> dict[str, Any] | None:
        """The answer to what was asked; None where it takes longer than ``limit`` seconds, less
        those in which the child says that the target does not run."""
        counts, left = True, limit
        while True:
            start = time.monotonic()
            reply = self._receive(left if counts else OWN_SECONDS)
            if counts:
                left = max(0.0, left - (time.monotonic() - start))
            if reply is not None and "pid" in reply:
                # The child of the last answer was spoilt by it; this is its successor's greeting.
                self._child, self.history = reply["pid"], self.history[-1:]
            elif reply is None or "runs" not in reply:
                return reply
            else:
                counts = reply["runs"]

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        self._process.end()
        self._channel.close()
        self._mark.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _await_child(self) -> Facts:
        reply = self._receive(_LOAD_TIMEOUT)
        if reply is None:
            raise TargetError(f"importing the target took more than {_LOAD_TIMEOUT:g} s")
        if "refused" in reply:
            raise TargetError(reply["refused"])
        if "failed" in reply:
            raise HarnessFailed(*reply["failed"])
        if "died" in reply:
            death = self._death(reply["died"])
            said = "".join(f"; {line}" for line in death.stderr[-1:])
            raise TargetError(f"importing the target: {death.findings[0].evidence}{said}")
        self._child = reply["pid"]
        self.history = []
        return Facts.from_values(reply["facts"])

    def _receive(self, timeout: float) -> dict[str, Any] | None:
        try:
            mark = self._marked()
            while not self._channel.poll(timeout):
                if mark == (mark := self._marked()):
                    return None
            reply: dict[str, Any] = from_text(self._channel.recv_bytes())
        except (EOFError, OSError, ValueError):
            raise TargetError("the worker process is gone") from None
        if "died" in reply:
            # The thread that reads stderr may be behind.
            self._ends.acquire(timeout=GRACE)
        return reply

    def _kill_child(self) -> None:
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        self._child = None
        # The child's answer may have come just before it was killed; the nursery's message about
        # its death then follows.
        while (reply := self._receive(GRACE)) is not None and "died" not in reply:
            if "pid" in reply:
                # The child had left by itself, spoilt by its last answer; its successor is there.
                self._child, self.history = reply["pid"], []
                return

    def _death(self, status: int) -> Outcome:
        text = self._stderr.decode(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            how = f"ended the process with status {code}"
        elif -code == signal.SIGALRM:
            return Outcome.found(Verdict.TIMEOUT, "did not return in time")
        else:
            hint = ", from outside; often for lack of memory" if -code == signal.SIGKILL else ""
            how = f"died of {signal.Signals(-code).name}{hint}"
        # faulthandler begins with the innermost frame.
        frames = [(file, int(line), name) for file, line, name in _FRAME.findall(text)][::-1]
        said = [
            line.rstrip()[:_LINE_SHOWN]
            for line in text.splitlines()
            if line.strip() and not _FAULTHANDLER.match(line) and not _FRAME.match(line)
        ]
        finding = Finding(Verdict.CRASH, how + where(frames))
        return Outcome((finding,), stderr=tuple(said[-_LINES_SHOWN:]))

    def _read_stderr(self, fd: int) -> None:
        while block := os.read(fd, 65536):
            self._stderr += block
            while (at := self._stderr.find(END_OF_STDERR)) >= 0:
                del self._stderr[at : at + len(END_OF_STDERR)]
                self._ends.release()
            del self._stderr[:-_STDERR_KEPT]
        os.close(fd)
