"""Which of the processes of one training this is, as torchrun and accelerate say it in the environment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

PATIENCE = 20
"""Seconds that a process without anything to say leaves to the one that has."""
WAIT = timedelta(days=2)
"""How long the others wait for the first, which calibrates alone. A process that ends is noticed at once."""


@dataclass(frozen=True)
class Rank:
    """number: of this process among ``count``; local: its number on this machine. Alone: 0 of 1."""

    number: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks for all."""
        return self.number == 0


def here() -> Rank:
    """Return this process's rank."""
    given = os.environ
    if "RANK" not in given or "MASTER_ADDR" not in given:
        return Rank()
    number = int(given["RANK"])
    return Rank(number, int(given.get("WORLD_SIZE", "1")), int(given.get("LOCAL_RANK", number)))


def silence() -> None:
    """Let the first process alone print: what all would say is said once."""
    if not here().first:
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open to the end


def speak() -> None:
    """Undo `silence` in a process that has something of its own to say."""
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def give_way() -> None:
    """Wait where another process says what went wrong: whoever started them ends all as soon as one has ended."""
    if sys.stderr is not sys.__stderr__ and not here().first:
        time.sleep(PATIENCE)


@contextmanager
def joined() -> Iterator[Rank]:
    """Meet the other processes and yield this one's rank. The first to fail says why, the others end silently."""
    rank = here()
    if rank.count == 1:
        yield rank
        return
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore

    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    try:
        yield rank
    except Exception as failure:
        if not _first_to_fail(store):
            time.sleep(PATIENCE)  # else this one's end could end the one that is about to speak
            raise SystemExit(1) from failure
        speak()
        raise
    if ours:
        dist.destroy_process_group()


def _first_to_fail(store: Any) -> bool:
    try:
        return bool(store.add(f"udrl/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1)
    except RuntimeError:  # whoever kept the store is gone: better said twice than never
        return True
