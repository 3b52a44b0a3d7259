"""Files are replaced whole or not at all."""

import os
import stat
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


def test_a_new_file_has_the_permissions_of_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the process's umask, which other threads need meanwhile and which is not touched, gives
    them."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")
            write_atomically(tmp_path / "a.json", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_what_is_written_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the content, then the name, so that a power cut leaves the old file or the new one."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        done.append("folder" if folder else f"{os.fstat(handle).st_size} bytes")
        sync(handle)

    def named(old: Path, new: Path) -> None:
        done.append("named")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    write_atomically(tmp_path / "a.json", "new")
    assert done == ["3 bytes", "named", "folder"]


def test_a_directory_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    """Found out before any work is done."""
    with pytest.raises(UnwritableFile, match="is a directory"):
        check_writable(tmp_path)
    with pytest.raises(UnwritableFile, match="there is no directory"):
        check_writable(tmp_path / "no" / "a.json")
