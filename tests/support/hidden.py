"""Triton, where only the tests that interpret kernels see it.

The C++ kernels are to be tested as they are where Triton is not installed; where it is, torch
imports it. Run as a module this installs it into a folder of the environment. On a desk where
Triton is installed like everything else, that one is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import ROOT

FOLDER = Path(sys.prefix, "hidden")


@contextmanager
def shown() -> Iterator[None]:
    """Where the folder is there, this process and those that it starts can import from it."""
    if not FOLDER.is_dir():
        yield
        return
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [before, str(FOLDER)]))
    sys.path.append(str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def install() -> None:
    """Install the version that the extra names, once."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [wanted] = [x for x in project["optional-dependencies"]["triton"] if x.startswith("triton")]
    done = FOLDER / f"{wanted}.installed"
    if not done.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        subprocess.run([*pip, "--target", str(FOLDER), wanted], check=True)
        done.touch()


if __name__ == "__main__":
    install()
