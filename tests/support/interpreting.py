"""A process that interprets Triton kernels, for tests in one that does not.

Run as a module it judges what it is asked, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from harness.case import DecodeCase
from harness.interpreter.gpu import environment
from tests.support import ROOT


def triton(text: str) -> DecodeCase:
    """A case with ``kernels=triton``."""
    return DecodeCase.from_text(f"{text},mode=compiled,kernels=triton")


class Interpreting:
    """Judges paths on cases, mostly with ``kernels=triton``, in a process of its own."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.support.interpreting"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
            env=os.environ | environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )

    def judge(self, path: str, case: DecodeCase, change: tuple[str, str, str] | None = None) -> Any:
        """``verdict``, ``evidence``, ``kernels`` and ``graphs`` of a path on a case; ``change``
        replaces a text of a template, ``(template, before, after)``."""
        return self._asked({"path": path, "case": str(case), "change": change})

    def run(self, function: str, *arguments: str) -> Any:
        """What a function of ``tests.support.interpreted`` returns."""
        return self._asked({"run": function, "arguments": arguments})

    def _asked(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _answer(order: dict[str, Any]) -> Any:
    from tests.support import interpreted

    if "run" in order:
        return getattr(interpreted, order["run"])(*order["arguments"])
    case = DecodeCase.from_text(order["case"])
    if order["change"]:
        return interpreted.judged_with(order["path"], case, *order["change"])
    return interpreted.judged(order["path"], case)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
