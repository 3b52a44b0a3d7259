"""pytest with the plugin, in a project that is not this one."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

from tests.support import ROOT
from tests.support.processes import Preloaded

# An installed harness brings the plugin as an entry point.
INSTALLED = any(
    point.value == "harness.pytest_plugin"
    for point in importlib.metadata.entry_points(group="pytest11")
)
PLUGIN = (*(() if INSTALLED else ("-p", "harness.pytest_plugin")), "-p", "no:cacheprovider")


def pytest_in(
    folder: Path, preloaded: Preloaded, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """``pytest *arguments`` in ``folder``."""
    return preloaded.run("-m", "pytest", *PLUGIN, *arguments, folder=folder, path=[ROOT])
