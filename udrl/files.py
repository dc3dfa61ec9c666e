"""Replacing a file or a folder in one step: readers, and a kill at any moment, see the old one or the whole new one.

No other module renames or replaces anything. What is being written stands beside its place as ``.NAME.partial``, on the
same disk; what a killed writer left there is taken away by the next writer of the same place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from udrl.errors import RunError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_HERE = -100  # AT_FDCWD: paths as the process sees them
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS


def partial_of(path: Path) -> Path:
    """Return where what shall take the place of ``path`` is written."""
    return path.with_name(f".{path.name}.partial")


def user_cache() -> Path:
    """Return the folder of what is kept for all runs of this user: ``UDRL_CACHE``, else the usual one.

    Raises RunError where it cannot be written.
    """
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "udrl"
    folder = Path(os.environ.get("UDRL_CACHE") or usual)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written ({error.strerror}): set UDRL_CACHE to a folder for what udrl keeps"
        ) from error
    return folder


def atomic_write(path: Path, content: bytes | str) -> None:
    """Replace the file ``path`` by one with ``content``. Raises RunError as `disk_errors` does."""
    with replacing_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Give an empty file to write; it takes the place of ``path``, on disk, when the block ends without an error.

    Writers of the same path wait for each other. Raises RunError as `disk_errors` does, and where the path is a device,
    a pipe or a folder: what took the place of /dev/null would be in every program's way.
    """
    partial = partial_of(path)
    with disk_errors(path):
        if path.exists() and not path.is_file():
            raise RunError(f"{path} is a folder, a pipe or a device, which no file may replace: name another file")
    with disk_errors(path), alone(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def alone(path: Path) -> Iterator[BinaryIO]:
    """Open ``path``, emptied, for one writer at a time; the lock of one that was killed ended with it."""
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "w+b") as file:
            with suppress(OSError):  # a disk without locks: what is written stays whole, the last writer wins
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):  # the one that was waited for has put it in its place
                continue
            try:
                file.truncate(0)
                yield file
            finally:
                with suppress(OSError):  # closing it would not do where a child process has inherited it
                    fcntl.flock(file, fcntl.LOCK_UN)
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of ``folder`` when the block ends without an error."""
    partial = partial_of(folder)
    with disk_errors(folder):
        finish_replacing(folder)
        remove_folder(partial)
        partial.mkdir(parents=True)
        try:
            yield partial
            replace_folder(folder)
        except BaseException:
            remove_folder(partial)
            raise


def copy_folder(source: Path, folder: Path) -> None:
    """Put a copy of the folder ``source`` in the place of ``folder``."""
    with replacing_folder(folder) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)


def replace_folder(folder: Path) -> None:
    """Put `partial_of` the folder, which is whole, in the place of ``folder``, on disk.

    The two are exchanged where the disk can do that. Where it cannot, a kill may come when neither is in its place:
    `standing` then says what there is, and `finish_replacing` finishes.
    """
    partial, old = partial_of(folder), _old(folder)
    _sync(partial)
    if folder.is_dir() and _exchange(partial, folder):
        remove_folder(partial)
    else:
        if folder.is_dir():
            remove_folder(old)
            folder.rename(old)
        partial.rename(folder)
        remove_folder(old)
    _sync_folder(folder.parent)


def standing(folder: Path) -> Path:
    """Return ``folder``, or the one that it replaces where a kill came in between."""
    return _old(folder) if not folder.is_dir() and _old(folder).is_dir() else folder


def finish_replacing(folder: Path) -> None:
    """Finish what a killed writer of ``folder`` had begun to put in its place, and remove what it had replaced."""
    old, partial = _old(folder), partial_of(folder)
    if old.is_dir() and not folder.is_dir():  # only what is whole is ever put in the place of something
        (partial if partial.is_dir() else old).rename(folder)
    remove_folder(old)


def remove_folder(folder: Path) -> None:
    """Remove ``folder``, if it is there, with all that it holds: a kill leaves all of it in its place, or nothing."""
    gone = folder.with_name(f".{folder.name.removeprefix('.')}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; say whether this disk can."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(one), os.fsencode(other))
    if sys.platform == "darwin":
        return bool(libc.renamex_np(*names, _EXCHANGE) == 0)
    if not hasattr(libc, "renameat2"):
        return False
    return bool(libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)


def _sync(folder: Path) -> None:
    """Have all files below ``folder`` on disk: a machine that loses power would else keep the names alone."""
    for path, _, names in os.walk(folder):
        for name in filter(lambda name: (Path(path) / name).is_file(), names):
            with (Path(path) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(path))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every disk can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only one and missing permission into one clear RunError about ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(
                f"the disk is full while writing {path}: free some space and start the same command again; "
                "everything finished is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise RunError(f"{path} cannot be written ({error.strerror}): name another folder with --run") from error
        raise
