"""The workflow for a user's own repository: what the docs show is linted, and its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.plugged import INSTALLED

MINE = """
import torch

def decode(query, key_cache, value_cache, input_pos):
    group = query.size(1) // key_cache.size(1)
    length = int(input_pos[0]) + 1
    key, value = (
        cache[:, :, :length].repeat_interleave(group, 1).float()
        for cache in (key_cache, value_cache)
    )
    weights = torch.softmax(query.float() @ key.mT * query.size(3) ** -0.5, -1)
    return (weights @ value).to(query.dtype)

decode.supports = {"gqa"}
"""
# The claim is that the commands run; how much they draw is for others.
FEWER = """
from hypothesis import settings
settings.register_profile("few", max_examples=3)
settings.load_profile("few")
"""


def blocks(language: str) -> list[str]:
    """What the docs quote in the section on tests."""
    text = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    section = text.partition("## In your own tests")[2]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)


def commands() -> list[str]:
    return re.findall(r"^ *- run: (.+)$", blocks("yaml")[0], re.M)


def test_the_docs_show_the_workflow_that_is_linted() -> None:
    """zizmor, in ``tox run -e lint``, reads the file."""
    (shown,) = blocks("yaml")
    assert shown == (ROOT / "examples" / "workflow.yml").read_text(encoding="utf-8")
    assert "examples/workflow.yml" in (ROOT / "tox.ini").read_text(encoding="utf-8")


def test_the_workflow_installs_what_there_is() -> None:
    """A project of this name with these extras, and the torch of the tests."""
    (install,) = (line for line in commands() if "pip install" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, extras = re.findall(r"'([\w-]+)\[([\w,]+)\]'", install)[0]
    assert name == project["name"]
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}
    assert re.findall(r"torch==\S+", install)[0] in (ROOT / "tox.ini").read_text(encoding="utf-8")


@pytest.mark.rotates(2)
@pytest.mark.parametrize(("right", "codes"), [(True, [0, 0]), (False, [1, 1])])
def test_the_commands_of_the_workflow_run_in_a_repository_of_a_users(
    right: bool, codes: list[int], tmp_path: Path
) -> None:
    """With the test that the docs show: green, and red for a decode path that is wrong."""
    mine = MINE if right else MINE.replace("int(input_pos[0]) + 1", "1")
    (tmp_path / "mine.py").write_text(mine)
    (tmp_path / "test_mine.py").write_text(blocks("python")[0])
    (tmp_path / "conftest.py").write_text(FEWER)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
        **({} if INSTALLED else {"PYTHONPATH": str(ROOT)}),
        **({} if INSTALLED else {"PYTEST_PLUGINS": "harness.pytest_plugin"}),
    }
    run = [line for line in commands() if "pip install" not in line]
    for line, code in zip(run, codes, strict=True):
        done = subprocess.run(
            ["bash", "-ec", line.replace("examples 100", "examples 3")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
