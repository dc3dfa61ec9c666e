"""What a process that was forked must do before it computes: the threads of its parent are not there any more.

The pools of OpenMP (torch), of the tokenizer and of ONNX Runtime are copied without their threads, and whoever hands
them work waits for ever. So a forked process computes with one thread, and makes its ONNX Runtime sessions anew.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from udrl.errors import StudentError

_home = os.getpid()
"""The process whose threads there are: the one that imported this, until `settle` is called in another."""

_forked = False


def settle(device: str = "cpu") -> None:
    """Make this process fit to compute on ``device`` where it was forked since udrl was imported; else do nothing.

    Raises StudentError for a GPU, which no forked process can go on using.
    """
    global _home, _forked
    if os.getpid() == _home:
        return
    if not device.startswith("cpu"):
        raise StudentError(
            f"this process was forked from one that uses {device}, which it cannot go on using: load the student "
            "behind the fork, in a process that was started by spawn"
        )
    if "torch" in sys.modules:  # an exported student answers without it
        import torch

        torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read at every call
    _home, _forked = os.getpid(), True
    warnings.warn(
        "this process was forked and computes with one thread, since the threads of its parent are not there any more: "
        "start processes by spawn for more",
        stacklevel=3,
    )


def was_forked() -> bool:
    """Say whether `settle` found this process forked, so that it computes with one thread."""
    return _forked


class OfProcess:
    """An object that a forked process cannot go on using, such as a session of ONNX Runtime: each makes its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """Make it now, by ``make``, and once more in each forked process that asks for it."""
        self._make = make
        self._made = os.getpid(), make()
        self._of_parents: list[Any] = []  # kept: to take one down is to wait for its threads

    def get(self) -> Any:
        """Return the object of this process."""
        process, made = self._made
        if process != os.getpid():
            settle()
            self._of_parents.append(made)
            made = self._make()
            self._made = os.getpid(), made
        return made
