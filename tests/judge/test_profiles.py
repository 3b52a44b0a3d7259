"""Hypothesis profiles, as the conftest registers them."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.support import ROOT


@pytest.mark.parametrize(
    ("profile", "folder"), [("default", "cpu"), ("nightly", "cpu"), ("gpu", "cuda")]
)
def test_each_kind_of_device_keeps_its_own_failures(profile: str, folder: str) -> None:
    """A replay that passes on the CPU must not delete what fails on the GPU."""
    database = settings.get_profile(profile).database
    assert isinstance(database, DirectoryBasedExampleDatabase)
    assert Path(database.path) == ROOT / ".hypothesis" / folder


def test_ci_keeps_none() -> None:
    """It is deterministic."""
    assert settings.get_profile("ci").database is None
