"""Who writes what: each completion that is wanted belongs to one teacher, decided by a hash and the weights.

A completion's place is its task, input and sample. Which teacher a place belongs to depends on nothing but the place,
the run's seed and the teachers with their weights; a place that one of the named teachers has written already stays
with it, so that changed weights hold for what is still to be written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from udrl.data.facts import TeacherFacts
from udrl.data.hashing import hash_int, hash_unit
from udrl.data.inputs import input_id
from udrl.data.ledger import request_key
from udrl.data.survey import Survey
from udrl.data.tasks import Task
from udrl.errors import UsageError
from udrl.teacher import cards
from udrl.teacher.backends.builtin import BuiltinTeacher, lexicon_hash
from udrl.teacher.cards import Card
from udrl.teacher.mixes import messages_for
from udrl.teacher.protocol import Request, Teacher
from udrl.teacher.synthesis.input_choice import Chosen

EXAMPLES = 200
"""Requests of each teacher and task that an estimate looks at; what they are like is taken for all of them."""


@dataclass(frozen=True)
class Share:
    """A teacher and its weight: the part of the completions that it writes, relative to the other weights."""

    card: Card
    weight: float
    writer: Teacher

    def described(self) -> TeacherFacts:
        """Return what run.json says of the teacher; cards of datasets and students name its licence, and a benchmark
        asks it again: by the card's file where it is the user's, at the endpoint where it had one."""
        card = self.card
        users = card.path != cards.shipped_cards().get(card.name)
        engine = card.settings.get("vllm") if card.backend in ("vllm", "ray") else None
        return TeacherFacts(
            model=card.model,
            licence=card.licence.name,
            outputs=card.licence.outputs,
            card=str(card.path.absolute()) if users else None,
            base_url=card.base_url,
            engine_arguments=dict(engine) if engine else None,
            backend=card.backend,
            revision=self.writer.revision,
            weight=self.weight,
        )


class WantedCompletion(NamedTuple):
    """One completion that is wanted."""

    task: Task
    input: str
    input_id: str
    sample: int


@dataclass
class Part:
    """What one teacher still has to write for one task. examples: its first requests."""

    task: Task
    requests: int = 0
    examples: list[Request] = field(default_factory=list)


@dataclass
class Outlook:
    """What is wanted, and what of it is left. already: completions with a response; failed: of these, with a failure.

    parts: by teacher and task, in the order in which they are asked for.
    """

    requests: int = 0
    already: int = 0
    failed: int = 0
    parts: dict[tuple[str, str], Part] = field(default_factory=dict)


def read_teachers(given: Sequence[str | Path]) -> list[tuple[Card, float]]:
    """Return the cards of ``NAME``, ``FILE``, ``NAME=WEIGHT`` or ``FILE=WEIGHT``, each with its weight (default 1).

    Raises UsageError where none is given, for a weight that is not above 0 and finite, and where two cards have one
    name; else as ``cards.load_card`` does.
    """
    if not given:
        raise UsageError("no teacher is named: name at least one, such as builtin")
    teachers: list[tuple[Card, float]] = []
    for entry in given:
        name, weight = _weighted(entry)
        card = cards.load_card(name)
        if any(card.name == other.name for other, _ in teachers):
            raise UsageError(f"teacher '{card.name}' is named twice (second time by '{entry}'): name it once")
        teachers.append((card, weight))
    return teachers


class Plan:
    """Everything that a synthesis wants written: ``samples`` completions of each chosen input."""

    def __init__(
        self,
        shares: Sequence[Share],
        chosen: Sequence[Chosen],
        *,
        samples: int,
        seed: int,
        references: Mapping[str, str] | None = None,
    ) -> None:
        """references: by input id, completions that a teacher may be shown (see ``udrl.teacher.mixes``)."""
        self.shares = tuple(shares)
        self._by_name = sorted(shares, key=lambda share: share.card.name)
        self._total = math.fsum(share.weight for share in self._by_name)
        self._chosen = chosen
        self._samples = samples
        self._seed = seed
        self._references = references or {}
        self._engine_arguments = {
            (share.writer.name, item.task.name): _engine_arguments(share.writer, item.task)
            for share in shares
            for item in chosen
        }

    def wanted(self) -> Iterator[WantedCompletion]:
        """Yield every completion that is wanted, by task, input and sample."""
        for item in self._chosen:
            for text in item.inputs:
                identity = input_id(text)
                for sample in range(self._samples):
                    yield WantedCompletion(item.task, text, identity, sample)

    def share_of(self, wanted: WantedCompletion) -> Share:
        """Return whose teacher writes the completion ``wanted``."""
        if len(self._by_name) == 1:
            return self._by_name[0]
        mark = self._total * hash_unit(self._seed, "teacher", wanted.task.name, wanted.input_id, wanted.sample)
        for share in self._by_name:
            mark -= share.weight
            if mark < 0:
                return share
        return self._by_name[-1]

    def request(self, share: Share, wanted: WantedCompletion) -> Request:
        """Return what ``share``'s teacher is asked for ``wanted``: a function of these two and the seed alone."""
        task, writer = wanted.task, share.writer
        # 31 bits: what every engine takes for a seed.
        seed = hash_int(self._seed, task.name, wanted.input_id, wanted.sample, bits=31)
        settings = writer.sampling(wanted.sample, seed, task.min_words, task.max_words)
        messages, sampling = messages_for(task, wanted.input, settings, reference=self._references.get(wanted.input_id))
        key = request_key(
            model=writer.model,
            revision=writer.revision,
            engine_arguments=self._engine_arguments[writer.name, task.name],
            messages=messages,
            sampling=sampling,
            seed=seed,
        )
        return Request(key, task.name, wanted.input_id, wanted.input, messages, sampling, seed, wanted.sample)

    def outlook(self, known: Survey, *, retry_failed: bool = False) -> Outlook:
        """Count what is wanted and what is left, given what the ledger holds."""
        outlook = Outlook()
        for wanted in self.wanted():
            outlook.requests += 1
            share = self.share_of(wanted)
            request = None
            if known.responses:
                request = self.request(share, wanted)
                settled = self._settled(share, request, wanted, known)
                if settled == "good" or (settled == "failed" and not retry_failed):
                    outlook.already += 1
                    outlook.failed += settled == "failed"
                    continue
            part = outlook.parts.setdefault((share.writer.name, wanted.task.name), Part(wanted.task))
            part.requests += 1
            if len(part.examples) < EXAMPLES:
                part.examples.append(request or self.request(share, wanted))
        for item in self._chosen:
            outlook.requests += item.missing * self._samples
            for share in self.shares if item.missing else ():
                part = outlook.parts.setdefault((share.writer.name, item.task.name), Part(item.task))
                part.requests += round(item.missing * self._samples * share.weight / self._total)
        return outlook

    def requests(self, share: Share, known: Survey, *, retry_failed: bool = False) -> Iterator[Request]:
        """Yield the requests that are left for ``share``'s teacher."""
        for wanted in self.wanted():
            if self.share_of(wanted) is not share:
                continue
            request = self.request(share, wanted)
            settled = self._settled(share, request, wanted, known) if known.responses else None
            if settled is None or (settled == "failed" and retry_failed):
                yield request

    def _settled(self, share: Share, request: Request, wanted: WantedCompletion, known: Survey) -> str | None:
        """Return ``good`` or ``failed`` where a named teacher, this one first, has a response for ``wanted``."""
        if request.key in known.good:
            return "good"
        others = (self.request(other, wanted) for other in self.shares if other is not share)
        if any(other.key in known.good for other in others):
            return "good"
        return "failed" if request.key in known.failed else None


def _engine_arguments(writer: Teacher, task: Task) -> Mapping[str, Any]:
    # The built-in teacher's instruction is the task's lexicon or generator, of which its messages say nothing.
    if isinstance(writer, BuiltinTeacher) and task.builtin:
        return {**writer.engine_arguments, "lexicon": lexicon_hash(task)}
    return writer.engine_arguments


def _weighted(entry: str | Path) -> tuple[str | Path, float]:
    name, equals, text = str(entry).rpartition("=")
    if not equals or "/" in text or text.endswith((".yaml", ".yml")) or Path(entry).is_file():
        return entry, 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise UsageError(f"teacher '{entry}': its weight must be a number above 0, such as {name or 'llama3'}=2")
    return name, weight
