"""What a decoder is asked for and tells of, and one request while it is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from udrl.decoding.engine import Array, Session
from udrl.decoding.governor import Governor
from udrl.decoding.guidance import guided
from udrl.decoding.sampling import Runs, Sampling, best, choose
from udrl.decoding.wording import Draw, LookAhead, Writer

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


class Row:
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
