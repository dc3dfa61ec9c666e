"""Continuous batching: one thread a student owns its decoder, and requests join those that are being written.

Everything here but the thread's own loop runs in the event loop, so that nothing needs a lock: requests go to the
thread through an inbox, and what was written comes back in one call a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from queue import SimpleQueue

from udrl.decoding.engine import Starter
from udrl.decoding.loop import Decoder
from udrl.decoding.requests import Request, Step
from udrl.errors import UdrlError
from udrl.serve.refusal import Refusal

SETTLED = 0.9
"""How much of the measured time of a completion the next one leaves as it was."""


class Failed(UdrlError):
    """The engine could not go on; what it was writing is lost."""


class Line:
    """One completion of a job. together: the most completions that were written at once with it.

    is_done: nothing more is written of it; is_told: nor is anything more told of it.
    """

    def __init__(self, job: Job, index: int, request: Request) -> None:
        self.job, self.index, self.request = job, index, request
        self.together = 1
        self.is_done = self.is_told = False


class Job:
    """Requests that were handed in together; what is told of them is read in the event loop."""

    def __init__(self, worker: Worker, requests: Sequence[Request], by_token: bool) -> None:
        self.worker, self.by_token = worker, by_token
        self.lines = [Line(self, index, request) for index, request in enumerate(requests)]
        self.events: asyncio.Queue[tuple[Line, Step] | Failed] = asyncio.Queue()

    async def steps(self) -> AsyncIterator[tuple[Line, Step]]:
        """Yield what is told, until every line has ended or was dropped; raises Failed."""
        while not all(line.is_told for line in self.lines):
            event = await self.events.get()
            if isinstance(event, Failed):
                raise event
            line, step = event
            if not line.is_told:
                line.is_told = step.decoded is not None
                yield line, step

    def drop(self, line: Line | None = None) -> None:
        """Write no more of ``line``, or of all that is not done."""
        left = [one for one in self.lines if line in (None, one)]
        for one in left:
            one.is_told = True
        self.worker.drop([one for one in left if not one.is_done])


class Worker:
    """Writes for one student. most: completions under way at once; room: how many more may wait."""

    def __init__(self, engine: Starter, *, most: int, room: int, loop: asyncio.AbstractEventLoop) -> None:
        self.engine, self.most, self.room, self.loop = engine, most, room, loop
        self.pending = 0
        """Completions that were taken and have not ended."""
        self.seconds = 0.0
        """What a completion took lately, counted from one end to the next."""
        self._last_end = time.monotonic()
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._decoder = Decoder(engine, most)
        self._lines: dict[int, Line] = {}
        self._handles: dict[Line, int] = {}
        self._thread = threading.Thread(target=self._run, name="udrl-writer", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it can write."""
        return self._thread.is_alive()

    @property
    def writing(self) -> int:
        """How many completions are under way, as far as they have a place."""
        return min(self.pending, self.most)

    @property
    def waiting(self) -> int:
        """How many completions wait for a place."""
        return self.pending - self.writing

    # -- in the event loop -------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[Request], *, by_token: bool) -> Job:
        """Take requests; raises Refusal (429) where too many wait already. by_token: tell of every id that is drawn."""
        if self.pending + len(requests) > self.most + self.room:
            raise Refusal(
                f"{self.waiting} completions wait already, of at most {self.room}: ask again in a moment",
                429,
                code="queue_full",
                headers={"retry-after": str(self.free_in(len(requests)))},
            )
        if not self.pending:
            self._last_end = time.monotonic()
        job = Job(self, requests, by_token)
        self.pending += len(requests)
        self._inbox.put(lambda: self._add(job))
        return job

    def free_in(self, count: int) -> int:
        """Return after how many seconds there will be room for ``count`` more, at least one."""
        return max(1, min(60, math.ceil(self.seconds * count)))

    def drop(self, lines: Sequence[Line]) -> None:
        """Write no more of ``lines``."""
        for line in lines:
            line.is_done = True
            self.pending -= 1
        if lines:
            self._inbox.put(lambda: self._drop(lines))

    def close(self) -> None:
        """End the thread, whatever it does."""
        self._inbox.put(None)
        self._thread.join(timeout=5)

    def _told(self, events: Sequence[tuple[Line, Step]]) -> None:
        for line, step in events:
            if not line.is_done:
                if step.decoded is not None:
                    line.is_done = True
                    self._ended()
                line.job.events.put_nowait((line, step))

    def _ended(self) -> None:
        self.pending -= 1
        now = time.monotonic()
        self.seconds += (1 - SETTLED) * (now - self._last_end - self.seconds)
        self._last_end = now

    def _lost(self, lines: Sequence[Line], why: str) -> None:
        for job in {line.job for line in lines}:
            job.events.put_nowait(Failed(why))

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._attend():
            try:
                steps = self._decoder.step() if self._decoder else []
            except Exception as error:  # noqa: BLE001 - whatever an engine raises must reach those who wait for it
                self._start_anew(error)
                continue
            told = [event for step in steps if (event := self._event(step, len(steps))) is not None]
            if told:
                self._tell(self._told, told)

    def _attend(self) -> bool:
        """Do what the inbox asks for, and wait for something where nothing is to be written; False: end."""
        while not (self._inbox.empty() and self._decoder):
            task = self._inbox.get()
            if task is None:
                return False
            task()
        return True

    def _add(self, job: Job) -> None:
        for line in job.lines:
            if not line.is_done:  # whoever asked may have left already
                handle = self._decoder.add(line.request)
                self._lines[handle], self._handles[line] = line, handle

    def _drop(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if (handle := self._handles.pop(line, None)) is not None:
                self._decoder.drop(handle)
                del self._lines[handle]

    def _event(self, step: Step, together: int) -> tuple[Line, Step] | None:
        """Return what is to be told of a step, if anything."""
        line = self._lines[step.handle]
        line.together = max(line.together, together)
        if step.decoded is not None:
            del self._lines[step.handle], self._handles[line]
        return (line, step) if line.job.by_token or step.decoded is not None else None

    def _start_anew(self, error: Exception) -> None:
        lines = list(self._lines.values())
        self._lines, self._handles = {}, {}
        self._decoder = Decoder(self.engine, self.most)
        why = f"the engine failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        self._tell(self._lost, lines, why)

    def _tell(self, how: Callable[..., None], *what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it those who would listen
            self.loop.call_soon_threadsafe(how, *what)
