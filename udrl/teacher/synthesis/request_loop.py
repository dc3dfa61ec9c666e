"""Asking: requests to a teacher, its replies into a ledger as they come, until all is answered or something stops it.

What stops it does so cleanly: nothing more is asked, what is in flight is waited for and kept.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from udrl.data.ledger import SCHEMA, Ledger, LedgerRecord
from udrl.data.survey import Usage
from udrl.data.tasks import Task
from udrl.errors import TeacherError
from udrl.progress import Bar
from udrl.teacher.protocol import Reply, Request, Teacher
from udrl.teacher.synthesis.account import Account, Tally
from udrl.teacher.synthesis.budget import Budget, expected
from udrl.teacher.synthesis.watchdog import Watchdog

INTERRUPTED = "interrupted"

SAVE_SECONDS = 30.0
"""How often what was spent is recorded: this much of it a kill can lose."""


class RequestLoop:
    """One start of a synthesis. stopped: what ended it early (INTERRUPTED, or the limit that was reached)."""

    def __init__(self, account: Account, budget: Budget, *, save: Callable[[], None]) -> None:
        """save: records what was spent so far."""
        self.account = account
        self.stopped: str | None = None
        self._budget = budget
        self._save = save
        self._saved = time.monotonic()

    def ask(
        self,
        writer: Teacher,
        requests: Iterable[Request],
        *,
        tally: Tally,
        ledger: Ledger,
        bar: Bar,
        backend: str,
        tasks: Mapping[str, Task] | None,
        seen: Callable[[LedgerRecord], None] = lambda _: None,
    ) -> None:
        """Put a response to every request into ``ledger``, as they come, count it in ``tally``, hand it to ``seen``.

        Asks nothing where the session was stopped before. tasks: by name; None where inputs are asked for instead
        of completions. Raises TeacherError where the teacher replies to what it was not asked, or not to what it was.
        """
        if self.stopped:
            return
        account, budget = self.account, self._budget
        usage = account.inventing if tasks is None else account.usage
        asked: dict[str, Request] = {}
        prices = account.prices.get(writer.name)
        clock = _Clock(account, writer)
        with Watchdog(writer.name, backend) as watchdog, _drained(self):

            def feed() -> Iterator[Request]:
                for request in requests:
                    task = tasks[request.task] if tasks is not None else None
                    tokens = expected(request, task, usage.get((writer.name, request.task)))
                    clock.book()
                    self.stopped = self.stopped or budget.allows(request, tokens, prices, gpu_usd=account.gpu_usd())
                    if self.stopped:
                        return
                    asked[request.key] = request
                    watchdog.asked()
                    yield request

            try:
                for reply in writer.generate(feed()):
                    request = _replied_to(asked, reply, writer)
                    watchdog.replied()
                    record = ledger_record(request, reply, writer)
                    ledger.append(record)
                    budget.settle(reply, prices)
                    tally.add(reply)
                    usage.setdefault((record.teacher, request.task), Usage()).add(
                        ok=reply.error is None,
                        prompt_tokens=reply.prompt_tokens,
                        completion_tokens=reply.completion_tokens,
                    )
                    seen(record)
                    bar.update()
                    self._save_now_and_then(clock)
            finally:
                clock.book()
        if asked and self.stopped != INTERRUPTED:
            raise TeacherError(
                f"teacher '{writer.name}' left {len(asked)} requests without a reply: start again to go on"
            )

    def _save_now_and_then(self, clock: _Clock) -> None:
        if time.monotonic() - self._saved > SAVE_SECONDS:
            clock.book()
            self._save()
            self._saved = time.monotonic()


class _Clock:
    """Books the time that a teacher works, from one call of `book` to the next."""

    def __init__(self, account: Account, writer: Teacher) -> None:
        self._account, self._writer = account, writer
        self._since = time.monotonic()

    def book(self) -> None:
        now = time.monotonic()
        self._account.worked(self._writer, now - self._since)
        self._since = now


def _replied_to(asked: dict[str, Request], reply: Reply, writer: Teacher) -> Request:
    request = asked.pop(reply.key, None)
    if request is None:
        raise TeacherError(f"teacher '{writer.name}' replied to a request that it was not given ({reply.key})")
    return request


def ledger_record(request: Request, reply: Reply, writer: Teacher) -> LedgerRecord:
    """Return the line of a ledger for what ``writer`` replied."""
    return LedgerRecord(
        schema=SCHEMA,
        key=request.key,
        status="ok" if reply.error is None else "failed",
        error=reply.error,
        attempts=reply.attempts,
        task=request.task,
        input_id=request.input_id,
        input=request.input,
        messages=request.messages,
        completion=reply.completion,
        finish_reason=reply.finish_reason,
        teacher=reply.teacher or writer.name,
        revision=writer.revision,
        sampling=request.sampling,
        seed=request.seed,
        sample=request.sample,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        started=reply.started,
        seconds=reply.seconds,
    )


@contextmanager
def _drained(loop: RequestLoop) -> Iterator[None]:
    """Make the first Ctrl-C stop the session, so that what is in flight is finished; the second one interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def first(_signal: int, _frame: FrameType | None) -> None:
        loop.stopped = INTERRUPTED
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print: a handler may run in the middle of another print.
        os.write(2, b"\nfinishing the requests in flight; press Ctrl-C again to stop at once\n")

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
