"""Writing a file so that it is there completely or not at all.

What is written goes to ``.<name>.<random>.tmp`` in the same folder, is synced, and then gets its name. A process that
is killed leaves that temporary file behind; it does no harm, and the next write of the same name removes it: a live
writer holds a lock on its own, so that a lock that can be had tells a dead one.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing under a temporary name in the same folder; at the end sync it and give it its name.

    If the body raises, the temporary file is removed and what had the name before stays. A link is written through. An
    OSError of the system (a full disk, a folder that is read-only) names ``path``.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.bin"
    >>> with atomic_write(target) as file:
    ...     _ = file.write(b"abc")
    >>> target.read_bytes()
    b'abc'
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f'cannot write "{os.fspath(path)}": there is no folder "{target.parent}"')
    if target.is_dir():
        raise IsADirectoryError(f'cannot write "{os.fspath(path)}": it is a folder')
    with _naming(path, target):
        if target.exists() and not target.is_file():  # a device or a pipe: not to be replaced by a file
            with open(target, "wb") as file:
                yield file
            return
        scratch, descriptor = claim(target, lambda name: os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(scratch, target)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise
    sync_folder(target.parent)


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str], target: Path) -> Iterator[None]:
    """An error that names no file, or the temporary one, shall name the one that is wanted."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if error.errno and (name is None or os.path.basename(os.fspath(name)).startswith(f".{target.name}.")):
            error.filename, error.filename2 = os.fspath(path), None
        raise


def claim(target: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make something temporary beside ``target`` and lock it; what dead writers of ``target`` left is removed first.

    ``make(path)`` creates a file or folder and opens it. Returns the path, and the descriptor: closing it unlocks.
    """
    for left_over in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        _remove_if_dead(left_over)
    while True:
        scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        descriptor = make(scratch)
        with contextlib.suppress(OSError):  # a file system without locks: nothing is ever removed there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if scratch.exists():
            return scratch, descriptor
        os.close(descriptor)  # another process took it for a left-over before it was locked


def _remove_if_dead(left_over: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(left_over, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if left_over.is_dir():
                shutil.rmtree(left_over, ignore_errors=True)
            else:
                left_over.unlink()
        finally:
            os.close(descriptor)


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it, and make their names durable."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable, where the system can (POSIX)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
