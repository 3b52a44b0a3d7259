"""Interrupts arrive wherever they come, and SIGTERM is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from tests.support import ROOT
from tests.support.processes import Preloaded

# Each place swallows what is raised in it; then the process has nothing but more work to do.
PLACES = """
import gc, signal, sys, weakref
from harness.support.interrupts import OutOfTime, interrupts, time_limit

sent = []

def send():
    sent.append(NUMBER)
    signal.raise_signal(NUMBER)

class Thing:
    def __del__(self):
        send()

class Other:
    pass

def in_a_callback_of_the_garbage_collector():
    gc.callbacks.append(lambda phase, info: sent or send())
    gc.collect()

def in_del():
    Thing()

def in_a_callback_of_a_weak_reference():
    other = Other()
    weak = weakref.ref(other, lambda weak: send())
    del other

def in_an_import():
    import swallows

def at_once():
    signal.raise_signal(NUMBER)

for NUMBER in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place in (in_a_callback_of_the_garbage_collector, in_del,
                  in_a_callback_of_a_weak_reference, in_an_import, at_once):
        sent.clear()
        sys.modules.pop("swallows", None)
        try:
            with interrupts():
                place()
                while True:
                    [None] * 100
        except KeyboardInterrupt:
            print(place.__name__, signal.Signals(NUMBER).name)
        gc.callbacks.clear()
try:
    with interrupts(), time_limit(0.2):
        while True:
            pass
except OutOfTime:
    print("out of time")
with interrupts(), time_limit(600):
    pass
print("in time", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.{signal})
    for number in range(10**5):
        pass
except BaseException:
    pass
"""


def test_an_interrupt_arrives_wherever_it_comes(tmp_path: Path) -> None:
    """Also where Python can raise nothing, and where a module that is imported catches all."""
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(signal="SIGINT"))
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(ROOT), str(tmp_path)]}"]
    command[2] += PLACES
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    places = ["in_a_callback_of_the_garbage_collector", "in_del"]
    places += ["in_a_callback_of_a_weak_reference", "in_an_import", "at_once"]
    wanted = [f"{place} {name}" for name in ("SIGINT", "SIGTERM") for place in places]
    assert done.stdout.splitlines() == [*wanted, "out of time", "in time True"], done.stderr
    assert done.stderr == ""


# After it the real package is there.
REAL = """
import sys
sys.path.remove({folder!r})
del sys.modules["hypothesis"]
import hypothesis
"""


def test_a_library_that_fails_since_it_is_interrupted_is_no_failure_of_the_harness(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cleaning up may raise whatever it likes."""

    def cleans_up(*_: object) -> int:
        try:
            raise KeyboardInterrupt
        finally:
            raise AssertionError("a stack is not empty")

    monkeypatch.setattr(cli, "in_another_process", cleans_up)
    assert cli.main(["faults", "--list"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_a_command_that_is_ended_while_it_imports_says_so(
    tmp_path: Path, preloaded: Preloaded
) -> None:
    """Exit 130 and one line, though a module swallowed the interrupt."""
    text = SWALLOWS.format(signal="SIGTERM") + REAL.format(folder=str(tmp_path))
    (tmp_path / "hypothesis.py").write_text(text)
    done = preloaded.run("-m", "harness", "faults", folder=ROOT, path=[tmp_path])
    assert done.returncode == cli.INTERRUPTED, done.stderr
    assert done.stderr.endswith("\ninterrupted\n")
    assert "Traceback" not in done.stderr
