"""Files are replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from harness.support.files import UnwritableFile, check_writable, write_atomically


def test_an_existing_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    """New text, old permissions, nothing left beside it."""
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o640)
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step fails: the old text is still there, the new file is gone."""
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UnwritableFile, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    """Found out before any work is done."""
    with pytest.raises(UnwritableFile, match="is a directory"):
        check_writable(tmp_path)
    with pytest.raises(UnwritableFile, match="there is no directory"):
        check_writable(tmp_path / "no" / "a.json")
