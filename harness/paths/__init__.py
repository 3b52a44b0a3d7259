"""Paths: the implementations of a decode call that are under test, by name."""

from harness.paths.path import Path, Result
from harness.paths.registry import PATHS

__all__ = ["PATHS", "Path", "Result"]
