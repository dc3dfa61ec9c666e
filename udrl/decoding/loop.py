"""Generation, on any engine: many prompts at once, each with its own settings and its own random stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from udrl.decoding.engine import Array, Session, Starter
from udrl.decoding.governor import CANDIDATES, Governor, nearest
from udrl.decoding.guidance import guided
from udrl.decoding.sampling import Runs, Sampler, Sampling, ban, best, choose
from udrl.decoding.wording import Draw, LookAhead, Writer

COMPACT = 0.75
"""Rows leave a cache, and join a crowded one, once no more than this share is still writing: moving it has a price."""


Start = Callable[[Sequence[Sequence[int]]], tuple[Session, Array]]
"""Reads prompts, as an engine does; or as a session under way does, which has the weights at hand."""


@dataclass(frozen=True)
class Request:
    """A prompt to continue, and how: nothing of it depends on what else is in its batch.

    seed: the start of its own random stream; limit: most new ids (at least 1); ends: ids that end the completion;
    unasked: the prompt with every attribute open, if ``sampling`` guides; writer: if words are required or banned.
    is_cut: whether the input that it was made of had no room in the prompt as a whole. likeliest: of how many ids the
    chances are told at each step, beside those of the one that is drawn (None: of none at all). governor: if it has a
    length to keep. written: ids of the completion that are there already; avoid: ids that the next one is not.
    """

    prompt: Sequence[int]
    seed: int
    sampling: Sampling
    limit: int
    ends: Sequence[int]
    unasked: Sequence[int] | None = None
    writer: Writer | None = None
    is_cut: bool = False
    likeliest: int | None = None
    governor: Governor | None = None
    written: Sequence[int] = ()
    avoid: Sequence[int] = ()

    @property
    def is_guided(self) -> bool:
        """Whether it takes two rows of a session."""
        return self.sampling.guidance != 1

    @property
    def prompts(self) -> Sequence[Sequence[int]]:
        """What a session reads for it: the prompt, and behind it the one with every attribute open if it guides."""
        prompts = [self.prompt]
        if self.is_guided:
            assert self.unasked is not None
            prompts.append(self.unasked)
        return [[*prompt, *self.written] for prompt in prompts] if self.written else prompts


@dataclass(frozen=True)
class Decoded:
    """The ids written for one prompt, and the id that ended it, which is not among them (None: cut at a limit)."""

    ids: list[int]
    end: int | None

    @property
    def stopped(self) -> bool:
        """Whether the student ended it."""
        return self.end is not None


@dataclass(frozen=True)
class Chances:
    """Natural logarithms of probabilities: of the id that was drawn, and of the likeliest ids, the likeliest first.

    They are the network's, with guidance, before temperature and what else narrows the draw.
    """

    drawn: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Step:
    """What one step did for one request. token: the id that it wrote, if any; decoded: all of it, if it has ended.

    chances: of what it wrote, if the request asks for them.
    """

    handle: int
    token: int | None
    decoded: Decoded | None
    chances: Chances | None = None


class Decoder:
    """Continues requests together, an id each a step; a request joins those that write already, whenever it comes.

    What a request gets does not depend on its company, up to the rounding of the engine's number format.
    """

    def __init__(self, engine: Starter, most: int | None = None) -> None:
        """Write with ``engine``. most: requests that write at once, while others wait (None: all that there are)."""
        self.engine, self.most = engine, most
        self.count = 0
        self.waiting: deque[_Row] = deque()
        self.batch: _Batch | None = None

    def add(self, request: Request) -> int:
        """Take a request; return the handle by which `step` tells of it: 0, 1, 2, ..."""
        self.waiting.append(_Row(self.count, request))
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

    def _admitted(self) -> list[_Row]:
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


class _Row:
    """One request while it is written. places: ids that a session holds of it; next: the id that it reads next."""

    def __init__(self, handle: int, request: Request) -> None:
        self.handle, self.request = handle, request
        self.ids: list[int] = list(request.written) if request.writer is None else request.writer.ids
        self.runs = Runs(request.sampling.no_repeat)
        for count in range(len(request.written)):
            self.runs.add(self.ids[: count + 1])
        self.places = max(map(len, request.prompts))
        self.alive = True
        self.drawn = 0
        self.next = 0
        self.plan: deque[int] = deque()
        """The rest of a continuation that was written ahead, its end included."""
        self.miss = 0
        """By how many words the length will be missed with it."""

    @cached_property
    def numbers(self) -> np.random.Generator | None:
        """Where its random numbers come from, if it needs any."""
        return np.random.default_rng(self.request.seed) if self.request.sampling.temperature > 0 else None

    def banned(self) -> Sequence[int]:
        """Return the ids that must not come next."""
        return self.runs.banned() if self.drawn else [*self.runs.banned(), *self.request.avoid]

    def uniform(self) -> float:
        """Return the random number of this step, whether or not it is needed."""
        self.drawn += 1
        return 0.0 if self.numbers is None else float(self.numbers.random())

    def worded(self, logits: Array, uniform: float, start: Start) -> int | None:
        """Return the next id by the writer of the request, or None where it must end here.

        start: starts sessions, in which it looks ahead.
        """
        writer = self.request.writer
        assert writer is not None
        return writer.next(logits, self._draw(uniform), self._look_ahead(start))

    def _draw(self, uniform: float) -> Draw:
        """Return how this step draws; what is drawn again in it has random numbers of its own."""
        seed, step = self.request.seed, self.drawn - 1

        def draw(logits: Array, attempt: int) -> int:
            again = attempt and self.numbers is not None
            number = float(np.random.default_rng([seed, step, attempt]).random()) if again else uniform
            return choose(logits, self.request.sampling, number)

        return draw

    def _look_ahead(self, start: Start) -> LookAhead:
        """Return what gives the logits after some more ids; in a session of its own, since a cache only grows."""

        def logits(ids: list[int]) -> Array:
            new = self.ids[len(self.request.written) :]
            after = start([[*prompt, *new, *ids] for prompt in self.request.prompts])[1]
            weight = np.float32(self.request.sampling.guidance)
            mixed: Array = guided(after[0], after[1], weight) if self.request.is_guided else after[0]
            return mixed

        return logits

    def logarithms(self, logits: Array) -> Array | None:
        """Return the logarithm of each id's probability (V,) by ``logits`` (V,), if the request asks for chances."""
        if self.request.likeliest is None or not self.alive:
            return None
        shifted: Array = logits - logits.max()
        shifted -= np.log(np.exp(shifted).sum())
        return shifted

    def take(self, token: int | None, logarithms: Array | None) -> Step:
        """Take note of what was drawn: an id, the end, or None where it must end here."""
        self.next = self.request.ends[0] if token is None else token
        if token is None or token in self.request.ends:
            self.alive = False
            return Step(self.handle, None, Decoded(self.ids, token))
        if self.request.writer is None:
            self.ids.append(token)
        self.runs.add(self.ids)
        if self.request.governor is not None:
            self.request.governor.add(token)
        self.alive = len(self.ids) < self.request.limit
        decoded = None if self.alive else Decoded(self.ids, None)
        return Step(self.handle, token, decoded, self._chances(token, logarithms))

    def _chances(self, token: int, logarithms: Array | None) -> Chances | None:
        if logarithms is None or self.request.likeliest is None:
            return None
        count = min(self.request.likeliest, len(logarithms))
        ids = best(logarithms[None], count)[0].tolist() if count else []
        return Chances(float(logarithms[token]), tuple((one, float(logarithms[one])) for one in ids))

    def govern(self, logits: Array) -> None:
        """Change the ``logits`` (V,) of the next id so that the completion becomes as long as it is to be."""
        governor, writer = self.request.governor, self.request.writer
        if governor is not None and self.alive:
            governor.shape(logits, may_end=writer is None or writer.may_end)

    def continuations(self, logits: Array) -> list[Request]:
        """Return what is to be written ahead now, none if nothing is; ``logits`` (V,) are those of the next id."""
        request, governor = self.request, self.request.governor
        if governor is None or not self.alive or (self.plan and not self.miss):
            return []
        if not governor.is_due(logits, anywhere=not self.plan):
            return []
        governor.looks -= 1
        beginnings = governor.beginnings(logits)
        return [
            replace(
                request,
                seed=int(np.random.SeedSequence([request.seed, len(self.ids), rank]).generate_state(1, np.uint64)[0]),
                limit=min(request.limit, len(self.ids) + governor.most),
                writer=None if request.writer is None else request.writer.fork(),
                governor=governor.ahead(),
                likeliest=None,
                written=tuple(self.ids),
                avoid=tuple(beginnings[:rank]),
            )
            for rank in range(len(beginnings))
        ]

    def follow(self, ids: list[int], miss: int) -> list[Step]:
        """Plan to become ``ids``, which miss the length by so many words.

        Where nothing is missed, and no chances are to be told of each step, end at once.
        """
        if self.plan and miss >= self.miss:
            return []
        new, end = ids[len(self.ids) :], self.request.ends[0]
        if miss or self.request.likeliest is not None:
            self.plan, self.miss = deque([*new, end]), miss
            return []
        self.ids, self.next, self.alive = ids, end, False
        return [*(Step(self.handle, token, None) for token in new), Step(self.handle, None, Decoded(ids, end))]

    def planned(self) -> int:
        """Return the next id of the plan."""
        token = self.plan.popleft()
        if self.request.writer is not None and token not in self.request.ends:
            self.request.writer.take(token)
        return token


@dataclass(frozen=True)
class _Ahead:
    """What continuations are started by, beside a session under way."""

    session: Session
    context: int

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        return self.session.start(prompts)


class _Batch:
    """Requests under way in one session, which has a row for each, and behind it the open one of those that guide."""

    def __init__(self, start: Start, rows: Sequence[_Row], context: int) -> None:
        self.context = context
        self._seat(rows)
        self.session: Session
        self.session, self.logits = start([prompt for row in rows for prompt in row.request.prompts])

    def _seat(self, rows: Sequence[_Row]) -> None:
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
