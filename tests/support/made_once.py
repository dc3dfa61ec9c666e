"""What several test modules begin with is made once a session; everyone works on a copy."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def copy_of(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return an own copy of the folder that ``make`` fills, once for all processes of the session."""
    shared = folders.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else folders.getbasetemp()
    made, done = shared / f"made-{name}", shared / f"made-{name}.done"
    with (shared / f"made-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(made, ignore_errors=True)  # of a process that failed at it
            make(made)
            done.touch()
    return Path(shutil.copytree(made, folders.mktemp(name) / "run"))
