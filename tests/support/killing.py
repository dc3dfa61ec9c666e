"""A process that ends itself by SIGKILL at a stated moment: a test of kills then depends on no speed and no load."""

from __future__ import annotations

import os
import signal
from typing import Any

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")


def die() -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_before(part: str) -> None:
    """End this process before it writes, makes, renames or removes anything whose path has ``part`` in it."""
    import sys

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and part in str(arguments[0]):
            die()

    sys.addaudithook(watch)


def die_at_line(number: int) -> None:
    """End this process when half of its line ``number`` of a ledger is written."""
    write, left = os.write, number

    def half(file: int, data: bytes) -> int:
        nonlocal left
        left -= data.startswith(b'{"schema"')
        if left <= 0 and data.startswith(b'{"schema"'):
            write(file, data[: len(data) // 2])
            die()
        return write(file, data)

    os.write = half


def die_at(moment: str) -> None:
    """End this process at a moment: ``line NUMBER`` of a ledger, or before a path with the text in it."""
    if moment.startswith("line "):
        die_at_line(int(moment.removeprefix("line ")))
    elif moment:
        die_before(moment)
