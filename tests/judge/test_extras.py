"""What a command needs beyond torch is asked for by name, and nothing else is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness import cli
from harness.support.extras import EXTRAS
from tests.newcomer import quotes
from tests.newcomer.run import differences, superfluous_modules
from tests.support import ROOT, TARGETS
from tests.support.command import command
from tests.support.processes import Preloaded

CACHES = TARGETS.with_name("cache_classes.py")
NEEDED = [
    ("strategies", "gate"),
    ("strategies", "hunt"),
    ("strategies", "faults"),
    ("strategies", "faults --diagnose"),
    ("strategies", "faults --state"),
    ("strategies", "bench"),
    ("strategies", "bench verdicts"),
    ("dask", "hunt --scheduler tcp://localhost:1"),
    ("figures", "figures"),
    ("figures", "report"),
    ("figures", "check mine.py:decode --plot a.png"),
    ("triton", "check mine.py:decode --triton"),
    ("triton", "repro --kernels triton"),
    ("triton", "repro S=2,pos=1,mode=compiled,kernels=triton"),
    ("triton", "gate --kernels triton"),
    ("triton", "record --kernels triton"),
    ("triton", "hunt --kernels cpp,triton"),
    ("transformers", "audit transformers"),
]
# Asks each command with one module of its extra away, in a process that has imported nothing.
ASKING = """
import contextlib, io, json, sys
from harness import cli

answers = []
for module, words in json.loads(sys.argv[1]):
    before = sys.modules.get(module, sys)
    sys.modules[module] = None
    with contextlib.redirect_stderr(io.StringIO()) as error:
        answers.append([cli.main(words.split()), error.getvalue()])
    sys.modules.pop(module)
print(json.dumps({"answers": answers, "torch": "torch" in sys.modules}))
"""
# Leaves the modules that are named out of what can be imported or found, also by a child.
BARE = """
import sys
from importlib.machinery import PathFinder


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if {name, name.partition(".")[0]} & {names}:
            return None
        return PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


def test_an_extra_that_lacks_one_package_is_named_before_torch_is_imported(tmp_path: Path) -> None:
    """Exit 2 and one line with the command that installs it, for each package of the extra."""
    asked = [(module, extra, words) for extra, words in NEEDED for module in EXTRAS[extra]]
    given = json.dumps([[module, words] for module, _, words in asked])
    child = [sys.executable, "-c", ASKING, given]
    ran = subprocess.run(child, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    for (module, extra, words), (code, error) in zip(asked, found["answers"], strict=True):
        assert code == cli.USAGE, (words, module)
        assert module in error, (words, module)
        assert error.endswith(f": pip install 'flexdecode-harness[{extra}]'\n"), (words, error)
        assert error.count("\n") == 1, (words, module)
    assert not found["torch"]


def test_what_needs_no_extra_is_not_asked_for_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of faults, a class's program that is named; a class whose programs are drawn needs
    one."""
    for module in (m for modules in EXTRAS.values() for m in modules):
        monkeypatch.setitem(sys.modules, module, None)
    assert command("faults", "--list") == cli.OK
    here = ("check", f"{CACHES}:Lockstep", "--no-isolation")
    assert command(*here, "--case", "S=2,pos=0,D=16", "--steps", "decode:1") == cli.OK
    capsys.readouterr()
    assert command(*here) == cli.USAGE
    assert "flexdecode-harness[strategies]" in capsys.readouterr().err


def test_the_extras_are_those_that_the_package_declares() -> None:
    """By the modules that they bring; Pillow comes with matplotlib."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, modules in EXTRAS.items():
        lines = declared["optional-dependencies"][extra]
        packages = {re.split(r"[^\w-]", line)[0] for line in lines}
        assert packages - {"torch"} == {*modules} - {"PIL"}, extra
    assert declared["optional-dependencies"].keys() - EXTRAS.keys() == {"report"}


@pytest.mark.parametrize(
    ("words", "code", "first", "unneeded"),
    [
        # Cases are drawn from random numbers, without Hypothesis.
        (
            ["check", "mine.py:decode", "--max-examples", "9"],
            cli.NOT_OK,
            "LEAK mine.py:decode",
            ["torch._dynamo"],
        ),
        (["repro", "S=2,pos=1,D=16"], cli.OK, "case S=2,pos=1,D=16", []),
    ],
)
def test_torch_alone_is_enough(
    words: list[str],
    code: int,
    first: str,
    unneeded: list[str],
    preloaded: Preloaded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a command nor the process in which it runs a function can import another package,
    nor torch's compiler where nothing compiles."""
    names = [*superfluous_modules(), *unneeded]
    assert {"numpy", "hypothesis", "matplotlib", "pytest"} <= {*names}
    assert "torch" not in names
    (tmp_path / "sitecustomize.py").write_text(BARE.replace("{names}", repr({*names})))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    source = quotes.code("docs/check.md", 'decode.supports = {"ragged", "window"}')
    (tmp_path / "mine.py").write_text(source)
    done = preloaded.run("-m", "harness", *words, folder=tmp_path, without=names)
    assert (done.returncode, done.stdout.partition("\n")[0]) == (code, first), done.stderr


def test_every_quoted_command_is_in_the_table_of_newcomers() -> None:
    """And every one there is quoted on a page, and is run or has a reason."""
    assert [*differences()] == []
