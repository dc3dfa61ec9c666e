"""Cells for tests of studies, called in processes of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from udrl.training.checkpoint import STATE


def square(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Square a number; leave a line for each call."""
    with (folder / "calls.txt").open("a") as file:
        file.write("called\n")
    return {"square": settings["x"] ** 2, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}


def reluctant(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fail at the first call, and go on from there at the second."""
    begun = folder / "begun.txt"
    if not begun.exists():
        begun.write_text("half")
        raise RuntimeError("the disk of the cell is upside down")
    return {"went on from": begun.read_text()}


def resumable(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave what a training would go on from."""
    (folder / STATE).write_text("half")
    return dict(settings)


def sleepy(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Say who computes, and take longer than a test may."""
    (folder / "pid.txt").write_text(str(os.getpid()))
    time.sleep(300)
    return {}
