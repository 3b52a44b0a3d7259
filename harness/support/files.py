"""Writing files so that nothing is lost or half-written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


class UnwritableFile(OSError):
    """A file that cannot be written; the message names it and the reason."""


def check_writable(path: Path) -> None:
    """Raise before long work, not after it, where the file ``path`` cannot be written.

    Raises:
        UnwritableFile: where ``path`` is a directory, or its directory is missing or not writable.
    """
    if path.is_dir():
        raise UnwritableFile(f"{path}: is a directory")
    folder = path.parent
    if not folder.is_dir():
        raise UnwritableFile(f"{path}: there is no directory {folder}")
    if not os.access(folder, os.W_OK):
        raise UnwritableFile(f"{path}: directory {folder} is not writable")


def check_folder(folder: Path) -> None:
    """Raise before long work where ``folder`` cannot be made or written to; make nothing yet.

    Raises:
        UnwritableFile: where the nearest existing parent is no directory, or is not writable.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UnwritableFile(f"{folder}: {nearest} is not a directory")
    if not os.access(nearest, os.W_OK):
        raise UnwritableFile(f"{folder}: directory {nearest} is not writable")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by a file with this content, text as UTF-8; on failure the old file stays
    as it was.

    Raises:
        UnwritableFile: where the system refuses; the message names the file and the reason.
    """
    check_writable(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UnwritableFile(f"{path}: {error.strerror}") from None
    try:
        with open(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(name, mode)
        os.replace(name, path)
    except OSError as error:
        os.unlink(name)
        raise UnwritableFile(f"{path}: {error.strerror}") from None
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
