"""How many requests an endpoint is given at once: additive increase, multiplicative decrease, as TCP has it.

The number doubles every round until the server first shows that it is crowded, then grows by one a round; it is
halved, at most once a round, when the server says that it is crowded (429, 503) or times out or hangs up. A plain
500 says nothing about crowding and changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from udrl.teacher.backends.openai_response import Answer, Problem

START = 8


class Congestion:
    """The places on one server. ``limit`` and ``wanted`` may be read from any thread, all else belongs to the event
    loop."""

    def __init__(self, *, most: int, start: int = START, longest: float = 600.0) -> None:
        """most: requests at once. longest: seconds; a limit of the rate that lasts longer is not waited for."""
        self._most = float(most)
        self._longest = longest
        self._limit = float(min(start, most))
        self._slow_start = True
        self._used = 0
        self._round = 0  # decreases so far: an outcome of an earlier round says nothing about the present limit
        self._closed_until = 0.0
        self._resting = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """How many requests may run at once now, at least 1."""
        return int(self._limit)

    @property
    def wanted(self) -> int:
        """How many requests should be under way: those that run, those that rest before another try (but never so
        many that memory grows with a storm), and a few that are ready when places get free."""
        return self.room + max(1, self.limit // 16)

    @property
    def room(self) -> int:
        """How many requests run or rest before another try, at most."""
        return self.limit + min(self._resting, int(self._most))

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Mark a request that waits before it is tried again: it holds no place."""
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[int]:
        """Admit a request, in order, once one more may run; gives the number of the round, which ``learn`` takes."""
        if self._used >= self.limit or self._queue:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        else:
            self._used += 1
        try:
            while (wait := self._closed_until - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            yield self._round
        finally:
            self._leave()

    def learn(self, round_: int, outcome: Answer | Problem) -> None:
        """Adapt to what an attempt that began in ``round_`` came to."""
        if isinstance(outcome, Answer):
            # One more for each answer doubles the limit in a round; one more for a limit's worth adds one.
            self._limit = min(self._most, self._limit + (1.0 if self._slow_start else 1.0 / self._limit))
            return
        if not outcome.crowded:
            return
        if outcome.limits_rate and outcome.wait is not None and outcome.wait <= self._longest:
            # The limit is on all that this key sends: whoever else asks meanwhile gets the same answer.
            self._closed_until = max(self._closed_until, time.monotonic() + outcome.wait)
        if round_ == self._round:
            self._limit = max(1.0, self._limit / 2)
            self._slow_start = False
            self._round += 1

    def _leave(self) -> None:
        self._used -= 1
        while self._queue and self._used < self.limit:
            turn = self._queue.popleft()
            if not turn.done():
                self._used += 1
                turn.set_result(None)
