"""Generation, on any engine: many prompts at once, each with its own settings and its own random stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from udrl.decoding.engine import Array, Session, Starter
from udrl.decoding.governor import CANDIDATES, nearest
from udrl.decoding.guidance import guided
from udrl.decoding.requests import Decoded, Request, Row, Start, Step
from udrl.decoding.sampling import Sampler, Sampling, ban
from udrl.decoding.wording import Writer

COMPACT = 0.75
"""Rows leave a cache, and join a crowded one, once no more than this share is still writing: moving it has a price."""


class Decoder:
    """Continues requests together, an id each a step; a request joins those that write already, whenever it comes.

    What a request gets does not depend on its company, up to the rounding of the engine's number format.
    """

    def __init__(self, engine: Starter, most: int | None = None) -> None:
        """Write with ``engine``. most: requests that write at once, while others wait (None: all that there are)."""
        self.engine, self.most = engine, most
        self.count = 0
        self.waiting: deque[Row] = deque()
        self.batch: _Batch | None = None

    def add(self, request: Request) -> int:
        """Take a request; return the handle by which `step` tells of it: 0, 1, 2, ..."""
        self.waiting.append(Row(self.count, request))
        self.count += 1
        return self.count - 1

    def drop(self, handle: int) -> None:
        """Write no more for a request: nothing is told of it from now on."""
        for row in (*self.waiting, *(() if self.batch is None else self.batch.rows)):
            row.alive &= row.handle != handle
        self.waiting = deque(row for row in self.waiting if row.alive)
        self._rest()

    def __bool__(self) -> bool:
        """Say whether anything is still to be written."""
        return bool(self.waiting or self.batch)

    def step(self) -> list[Step]:
        """Draw the next id of every request that is not at its end; those that can join are read before."""
        new = self._admitted()
        if self.batch is not None:
            self.batch.advance(crowded=bool(new))
        if new:
            starter = self.engine if self.batch is None else self.batch.session
            joining = _Batch(starter.start, new, self.engine.context)
            if self.batch is None:
                self.batch = joining
            else:
                self.batch.join(joining)
        assert self.batch is not None, "nothing is to be written"
        steps = self.batch.draw()
        self._rest()
        return steps

    def _rest(self) -> None:
        if self.batch is not None and not self.batch.writing:
            self.batch = None

    def _admitted(self) -> list[Row]:
        """Take those who need wait no longer out of ``waiting``."""
        writing = 0 if self.batch is None else self.batch.writing
        most = writing + len(self.waiting) if self.most is None else self.most
        free = min(most - writing, len(self.waiting))
        if self.batch is not None:
            few = free < len(self.waiting) and writing > COMPACT * most
            free = 0 if few or not self.batch.session.joins else free
        return [self.waiting.popleft() for _ in range(free)]


def decode_requests(engine: Starter, requests: Iterable[Request], *, most: int | None = None) -> Iterator[Step]:
    """Continue all ``requests``, at most so many at once, and yield what each step did; handles count them."""
    decoder = Decoder(engine, most)
    for request in requests:
        decoder.add(request)
    while decoder:
        yield from decoder.step()


def decode_batch(
    engine: Starter,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    sampling: Sampling | Sequence[Sampling],
    limits: Sequence[int],
    end: int,
    others: Collection[int] = (),
    on_token: Callable[[int, int], None] | None = None,
    unasked: Sequence[Sequence[int]] | None = None,
    writers: Sequence[Writer] | None = None,
    most: int | None = None,
) -> list[Decoded]:
    """Continue every prompt until the end token or its limit.

    seeds: one a prompt, the start of its own random stream; sampling: one for all, or one a prompt; limits: most new
    ids of each prompt (at least 1); others: ids that end a completion as ``end`` does; on_token: called with (row, id)
    for every id as it is drawn; unasked: each prompt with every attribute open, where ``sampling`` guides; writers: one
    a prompt, where words are required or banned; most: completions under way at once.
    """
    requests = [
        Request(
            prompt,
            seed,
            sampling if isinstance(sampling, Sampling) else sampling[row],
            limit,
            (end, *others),
            None if unasked is None else unasked[row],
            None if writers is None else writers[row],
        )
        for row, (prompt, seed, limit) in enumerate(zip(prompts, seeds, limits, strict=True))
    ]
    ended: dict[int, Decoded] = {}
    for step in decode_requests(engine, requests, most=most):
        if step.token is not None and on_token is not None:
            on_token(step.handle, step.token)
        if step.decoded is not None:
            ended[step.handle] = step.decoded
    return [ended[row] for row in range(len(prompts))]


@dataclass(frozen=True)
class _Ahead:
    """What continuations are started by, beside a session under way."""

    session: Session
    context: int

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        return self.session.start(prompts)


class _Batch:
    """Requests under way in one session, which has a row for each, and behind it the open one of those that guide."""

    def __init__(self, start: Start, rows: Sequence[Row], context: int) -> None:
        self.context = context
        self._seat(rows)
        self.session: Session
        self.session, self.logits = start([prompt for row in rows for prompt in row.request.prompts])

    def _seat(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        guided = np.array([row.request.is_guided for row in rows])
        self.places = np.cumsum(1 + guided) - 1 - guided
        """The row of each request in the session."""
        self.guided = np.flatnonzero(guided)
        self.weights = np.array(
            [[row.request.sampling.guidance] for row in rows if row.request.is_guided], dtype=np.float32
        )
        self.sampler = Sampler([row.request.sampling for row in rows])
        self.worded = all(row.request.writer is not None for row in rows)

    @property
    def writing(self) -> int:
        """How many still write."""
        return sum(row.alive for row in self.rows)

    def draw(self) -> list[Step]:
        """Draw an id a row, and take note of it where the row still writes."""
        logits = self._mixed()
        logarithms = [row.logarithms(logits[index]) for index, row in enumerate(self.rows)]
        ban(logits, [row.banned() for row in self.rows])
        for index, row in enumerate(self.rows):
            row.govern(logits[index])
        steps = self._written_ahead(logits)
        uniform = np.array([row.uniform() for row in self.rows])
        ids: list[int] = [] if self.worded else self.sampler(logits, uniform).tolist()
        for index, row in enumerate(self.rows):
            token: int | None
            if row.plan and row.alive:
                token = row.planned()
            elif row.request.writer is None:
                token = ids[index]
            else:
                token = row.worded(logits[index], float(uniform[index]), self.session.start) if row.alive else None
            if row.alive:
                steps.append(row.take(token, logarithms[index]))
            else:  # its id is of no use, but each row of the session reads one
                row.next = row.request.ends[0] if token is None else token
        return steps

    def _written_ahead(self, logits: Array) -> list[Step]:
        """End the requests whose end is to be written ahead now, where one of its continuations has a good end."""
        ahead = [(row, asked) for index, row in enumerate(self.rows) if (asked := row.continuations(logits[index]))]
        asked = [request for _, of_row in ahead for request in of_row]
        starter = _Ahead(self.session, self.context)
        steps = decode_requests(starter, asked, most=max(CANDIDATES, len(self.rows)))
        ended = {step.handle: step.decoded for step in steps if step.decoded is not None}
        taken: list[Step] = []
        first = 0
        for row, of_row in ahead:
            written = [(of_row[k].governor, ended[first + k].ids) for k in range(len(of_row))]
            first += len(of_row)
            if (found := nearest(written)) is not None:
                taken += row.follow(*found)
        return taken

    def _mixed(self) -> Array:
        if not len(self.guided):
            return self.logits
        logits: Array = self.logits[self.places]
        logits[self.guided] = guided(logits[self.guided], self.logits[self.places[self.guided] + 1], self.weights)
        return logits

    def advance(self, *, crowded: bool) -> None:
        """Let the session read the ids that were drawn; what has ended is dropped where that is worth it.

        crowded: others are about to join.
        """
        # what has ended still takes up places, of which a context has only so many
        full = any(not row.alive and row.places >= self.context for row in self.rows)
        writing = self.writing
        if writing < len(self.rows) and (crowded or full or writing <= COMPACT * len(self.rows)):
            self.session.keep(np.flatnonzero([row.alive for row in self.rows for _ in row.request.prompts]))
            self._seat([row for row in self.rows if row.alive])
        for row in self.rows:
            row.places += 1
        ids = [row.next for row in self.rows for _ in row.request.prompts]
        self.logits = self.session.step(np.array(ids, dtype=np.int64))

    def join(self, new: _Batch) -> None:
        """Take in the requests of ``new``, which have not drawn yet."""
        self.session.join(new.session)
        self.logits = np.concatenate([self.logits, new.logits])
        self._seat([*self.rows, *new.rows])
