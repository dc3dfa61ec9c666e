"""What a training costs, and the budgets that end it: machine-hours, GPU-hours and money, over all its starts."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from udrl.errors import StudentError, UsageError, damaged
from udrl.files import atomic_write
from udrl.training.ranks import Rank

SPENT = "spent.json"
"""In the folder of an unfinished training: the seconds of its starts so far."""
ALONE = Rank()
PAUSE = 2.0
"""Seconds between two writings of it: what a kill may leave uncounted."""


@dataclass(frozen=True)
class Limits:
    """What a training may cost at most. samples: completions that it writes and scores; machine_usd: of an hour."""

    samples: int | None = None
    usd: float | None = None
    minutes: float | None = None
    machine_usd: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("usd", self.usd), ("minutes", self.minutes)):
            if value is not None and not (isfinite(value) and value > 0):
                raise UsageError(f"--max-{name} must be above 0, found {value:g}")
        if self.machine_usd is not None and not (isfinite(self.machine_usd) and self.machine_usd >= 0):
            raise UsageError(f"--machine-usd must be 0 or more, found {self.machine_usd:g}")
        if self.usd is not None and not self.machine_usd:
            raise UsageError("--max-usd needs the price of an hour of this machine: give --machine-usd, too")

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.samples is not None or self.usd is not None or self.minutes is not None


@dataclass(frozen=True)
class Cost:
    """Wall-clock time of a training, calibration included. usd: None where no price is known."""

    machine_hours: float
    gpu_hours: float
    usd: float | None


class Meter:
    """Measures what a training costs, and says when a limit is reached.

    ended: the limit that ended the training, None where none did; step: after how many steps.
    """

    def __init__(
        self,
        limits: Limits,
        folder: Path | None = None,
        *,
        started: float | None = None,
        group: Rank = ALONE,
        gpu: bool = False,
    ) -> None:
        """Go on from what earlier starts left in ``folder``. started: ``time.monotonic`` of this one (None: now).

        gpu: whether each process has a GPU.
        """
        self.limits = limits
        self.ended: str | None = None
        self.step = 0
        self._file = None if folder is None else folder / SPENT
        self._gpus = group.count if gpu else 0
        self._machines = max(1, group.count // int(os.environ.get("LOCAL_WORLD_SIZE", group.count)))
        self._written = time.monotonic()
        self._started = self._written if started is None else started
        self._earlier = 0.0
        if self._file is not None and self._file.exists():
            with damaged(StudentError, self._file, "forget the interrupted training with --restart"):
                self._earlier = float(json.loads(self._file.read_text())["seconds"])

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all starts so far."""
        return self._earlier + time.monotonic() - self._started

    @property
    def cost(self) -> Cost:
        """What it cost so far."""
        hours = self.seconds / 3600
        price, machines = self.limits.machine_usd, self._machines * hours
        usd = None if price is None else round(price * machines, 6)
        return Cost(round(machines, 6), round(self._gpus * hours, 6), usd)

    def tick(self) -> None:
        """Keep the seconds so far, if it is time to."""
        if self._file is not None and time.monotonic() - self._written >= PAUSE:
            self.keep()

    def keep(self) -> None:
        """Keep the seconds so far."""
        assert self._file is not None
        atomic_write(self._file, json.dumps({"seconds": self.seconds}))
        self._written = time.monotonic()

    def reached(self, samples: int = 0) -> str | None:
        """Return the limit that is reached, as its option. samples: completions written so far."""
        limits = self.limits
        if limits.samples is not None and samples >= limits.samples:
            return f"--max-samples {limits.samples:,}"
        if limits.usd is not None and (self.cost.usd or 0.0) >= limits.usd:
            return f"--max-usd {limits.usd:g}"
        if limits.minutes is not None and self.seconds >= 60 * limits.minutes:
            return f"--max-minutes {limits.minutes:g}"
        return None

    def ends(self, step: int, samples: int = 0) -> bool:
        """Say whether a limit is reached after ``step`` steps, and note which; then keep the seconds so far."""
        self.ended, self.step = self.reached(samples), step
        if self.ended is not None and self._file is not None:
            self.keep()
        return self.ended is not None
