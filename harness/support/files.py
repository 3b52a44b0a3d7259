"""Writing files so that nothing is lost or half-written."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path


class UnwritableFile(OSError):
    """A file that cannot be written; the message names it and the reason."""


def check_writable(path: Path) -> None:
    """Raise before long work, not after it, where the file ``path`` cannot be written.

    Raises:
        UnwritableFile: where ``path`` is a directory, its directory is missing, or the system
            refuses to make a file in it.
    """
    if path.is_dir():
        raise UnwritableFile(f"{path}: is a directory")
    if is_device(path):
        return
    folder = path.parent
    if not folder.is_dir():
        raise UnwritableFile(f"{path}: there is no directory {folder}")
    _try(folder, path)


def check_folder(folder: Path) -> None:
    """Raise before long work where ``folder`` cannot be made or written to; leave nothing behind.

    Raises:
        UnwritableFile: where the nearest existing parent is no directory, or the system refuses to
            make a file in it.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UnwritableFile(f"{folder}: {nearest} is not a directory")
    _try(nearest, folder)


def _try(folder: Path, path: Path) -> None:
    """Make a file in ``folder`` and remove it: what permissions say is not all that decides."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UnwritableFile(f"{path}: directory {folder}: {error.strerror}") from None


def is_device(path: Path) -> bool:
    """Whether ``path`` is there and is no regular file, or is one by another name in /dev, such as
    /dev/stdout: it is written to, and never replaced."""
    return path.is_relative_to("/dev") or (path.exists() and not path.is_file())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by a file with this content, text as UTF-8, and have it on the disk; on
    failure the old file stays as it was.

    Raises:
        UnwritableFile: where the system refuses; the message names the file and the reason.
    """
    check_writable(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        if is_device(path):
            path.write_bytes(data)
            return
        # Opened so, it has the permissions that any new file gets here.
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.chmod(new, path.stat().st_mode & 0o777)
        os.replace(new, path)
        _sync_folder(path.parent)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UnwritableFile(f"{path}: {error.strerror}") from None
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where its file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
