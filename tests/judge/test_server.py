"""A server imports torch once, and forks what is asked for; nothing outlives who asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.support import ROOT
from tests.support.forked import forked
from tests.support.processes import PATIENCE, ends, runs


def test_one_server_forks_all_of_an_environment() -> None:
    """Each with torch imported, in the folder of who asked, and gone at the end."""
    with forked() as (_, _, first), forked() as (_, _, second):
        assert first[0] != second[0] and first[1] == second[1]
        assert first[2:] == (os.getcwd(), None, True)
    assert ends(first[0]) and ends(second[0])
    with forked() as (_, _, third):
        assert third[1] == first[1]


def test_another_environment_has_a_server_of_its_own() -> None:
    """What is read when torch is imported cannot be changed later; an idle server ends."""
    with forked() as (_, _, first):
        with forked(GIVEN="1") as (_, _, second):
            assert second[1] != first[1] and second[3] == "1"
        with forked() as (_, _, third):
            assert third[1] == first[1]
        assert ends(second[1])


def test_the_exit_code_is_told() -> None:
    """A signal that the process died of is not that which would have ended it."""
    with forked() as (process, channel, _):
        channel.send("die")
        with pytest.raises((EOFError, ConnectionResetError)):
            channel.recv()
        assert process.end() == -signal.SIGSEGV
        assert process.ended and process.end() == -signal.SIGSEGV


def test_a_server_that_was_killed_is_replaced() -> None:
    """As where the system is out of memory."""
    with forked() as (_, _, first):
        os.kill(first[1], signal.SIGKILL)
        assert ends(first[1])
        with forked() as (_, _, second):
            assert second[1] != first[1]
        os.kill(first[0], signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_who_asked(how: signal.Signals) -> None:
    """Neither the server nor what it forked, however that process ends."""
    code = """
        import sys, time
        from tests.support.forked import forked
        with forked() as (_, _, told):
            print(*told[:2], flush=True)
            time.sleep(float(sys.argv[1]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(PATIENCE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as asking:
        assert asking.stdout is not None
        pids = [int(pid) for pid in asking.stdout.readline().split()]
        assert len(pids) == 2 and all(map(runs, pids))
        asking.send_signal(how)
    assert all(map(ends, pids))


def test_a_fork_of_who_asked_asks_a_server_of_its_own() -> None:
    """Two processes that write into one channel would read each other's answers."""
    with forked() as (_, _, first):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            with forked() as (_, _, told):
                os.write(write, str(told[1]).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            assert int(answer.read()) != first[1]
        assert os.waitpid(child, 0)[1] == 0
        with forked() as (_, _, second):
            assert second[1] == first[1]
