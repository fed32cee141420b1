"""Files: a file appears under its name whole and safe on the disk, or not at all.

Everything here blocks: call it in a thread. Must not know what it writes.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agent.assets import names
from agent.core.faults import DiskFullFault, InternalFault

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_HARD_LINKS: Final = frozenset(
    {errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
)
"""What file systems without hard links answer: FAT on Linux, exFAT on macOS, shares."""

TEMPORARY_MAX: Final = 100
"""Temp files of one name by one writer: of two threads, and of crashes before the next start."""

_NEW_FILE: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
)


def write_all(file: int, data: bytes) -> None:
    """Write all of `data` to an open file and force it to the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


@contextmanager
def disk_faults() -> Iterator[None]:
    """Turn what the disk says into a fault.

    Raises: DiskFullFault, InternalFault.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFullFault("The disk that holds the assets is full.") from error
        raise InternalFault("A file could not be written to the assets.", str(error)) from error


@contextmanager
def _written(path: Path, data: bytes, writer: str) -> Iterator[Path]:
    """Write `data` to a new temp file beside `path`; it is gone at the end unless it was moved."""
    for k in range(1, TEMPORARY_MAX):
        temporary = path.with_name(names.temporary(path.name, writer, k))
        try:
            file = os.open(temporary, _NEW_FILE, 0o666)  # the umask has the last word
        except FileExistsError:
            continue
        break
    else:
        raise InternalFault("Too many temp files of one asset.", path.name)
    try:
        try:
            write_all(file, data)
        finally:
            os.close(file)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def create(path: Path, data: bytes, writer: str) -> bool:
    """Create a file unless its name is taken; of several who try, one gets True.

    Raises: DiskFullFault, InternalFault.
    """
    with disk_faults(), _written(path, data, writer) as temporary:
        try:
            _name_exclusively(temporary, path)
        except FileExistsError:
            return False
        return True


def _name_exclusively(temporary: Path, path: Path) -> None:
    """Give a temp file its final name. Raises: OSError; FileExistsError if the name is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _move_exclusively(temporary, path)


def _move_exclusively(temporary: Path, path: Path) -> None:
    """Reserve the name with an empty file, then replace that.

    A crash in between leaves the empty file: it is a clash for whoever comes next.
    """
    os.close(os.open(path, _NEW_FILE, 0o666))
    try:
        temporary.replace(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes, writer: str) -> None:
    """Write a file in place of the one that may be there.

    Raises: DiskFullFault, InternalFault.
    """
    with disk_faults(), _written(path, data, writer) as temporary:
        temporary.replace(path)


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, none if it is not there yet."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files in the folders of a folder; what cannot be read counts none."""
    total = 0
    for inside in listing(folder):
        with suppress(OSError), os.scandir(folder / inside) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # Removed meanwhile.
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def holds(path: Path, data: bytes) -> bool:
    """Tell whether a plain file of exactly this name, upper and lower case too, has this content.

    Where case does not count, `A.b` and `a.b` are one file but two requests.
    """
    with disk_faults():
        if path.name not in listing(path.parent) or path.is_symlink():
            return False
        return path.stat().st_size == len(data) and path.read_bytes() == data


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and the new entries durable.

    Raises: DiskFullFault, InternalFault.
    """
    if folder.is_dir():
        return
    with disk_faults():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system lets folders be synced.

    Raises: DiskFullFault, InternalFault.
    """
    with disk_faults():
        try:
            file = os.open(folder, os.O_RDONLY)
        except PermissionError:
            return  # Windows opens no folders; NTFS journals names
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise  # some shares cannot sync a folder; they say so with the same answers
        finally:
            os.close(file)


def remove(paths: Iterable[Path]) -> None:
    """Remove files; those that are missing are fine.

    Raises: InternalFault.
    """
    with disk_faults():
        for path in paths:
            path.unlink(missing_ok=True)
