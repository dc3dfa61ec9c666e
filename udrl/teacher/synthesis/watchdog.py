"""Says when a teacher owes replies and none comes: which one, how many, and what to look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from udrl.progress import note

PATIENCE = 120.0
"""Seconds without a reply after which a teacher is called silent; then again after twice as long, and so on."""

ADVICE: Mapping[str, str] = {
    "openai": "look at the server's log and load; requests that get no answer are tried again by themselves",
    "transformers": "it may still be loading its weights; on a CPU a batch of a large model takes minutes",
    "vllm": "it may still be loading its weights and preparing its kernels; nvidia-smi shows whether it works",
    "ray": "the cluster may still be loading weights, or lack the machines that are asked for; see ray status",
}
"""What to look at, by backend."""


class Watchdog:
    """Watches one teacher from a thread of its own, which ends with the ``with`` block.

    A request that is taken and a reply that comes are both signs of life.
    """

    def __init__(
        self, teacher: str, backend: str, *, patience: float | None = None, tell: Callable[[str], None] = note
    ) -> None:
        """patience: seconds (None: PATIENCE). tell: is called from the thread."""
        self._teacher = teacher
        self._advice = ADVICE.get(backend, "Ctrl-C finishes what can be finished, and the next start goes on")
        self._patience = PATIENCE if patience is None else patience
        self._tell = tell
        self._in_flight = 0
        self._last = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="udrl-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def asked(self) -> None:
        """A request was taken."""
        self._in_flight += 1
        self._last = time.monotonic()

    def replied(self) -> None:
        """A reply came."""
        self._in_flight -= 1
        self._last = time.monotonic()

    def _watch(self) -> None:
        last, due = self._last, self._patience
        while not self._end.wait(self._patience / 8):
            if self._last != last or not self._in_flight:
                last, due = self._last, self._patience
                continue
            silent = time.monotonic() - last
            if silent >= due:
                self._tell(
                    f"teacher '{self._teacher}' has not replied for {silent:,.0f} s, {self._in_flight:,} requests are "
                    f"in flight: {self._advice}"
                )
                due *= 2
