"""Inputs invented by an LLM teacher, from the task's ``invent`` template, its seeds and what was invented before.

Inventing goes in rounds. The requests of a round show examples that a hash draws from what was accepted before the
round, and its answers are read in the order of the requests, not of their arrival: the same inputs come out at any
concurrency and after any interruption. Requests and answers stand in a ledger of their own, ``ledger/inventing/``,
with the lines of the other one, so that nothing is paid twice here either. Showing both people's examples and the
model's own follows Self-Instruct (arXiv 2212.10560, section 2.2).
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from udrl.data.dedup import Deduplicator
from udrl.data.finish import finish_of
from udrl.data.hashing import hash_hex, hash_int
from udrl.data.inputs import input_id
from udrl.data.leakage import is_preamble, is_refusal
from udrl.data.ledger import Ledger, LedgerRecord, request_key
from udrl.data.run import Run
from udrl.data.tasks import Task
from udrl.errors import TeacherError
from udrl.teacher.protocol import Request, Teacher
from udrl.teacher.synthesis.listing import items
from udrl.teacher.thoughts import without_thoughts
from udrl.words import count_words

FOLDER = "inventing"
"""Where the ledger of requests for inputs lies, inside the run's ledger folder, whose readers pass it by."""

COUNT = 20
"""Inputs asked for in one request."""

SHOWN_SEEDS, SHOWN_INVENTED = 6, 2

LARGEST_ROUND = 64
"""Requests of one task in a round; the first rounds are smaller, so that later ones see what was invented."""

POOR = 0.05
"""A round that brings less than this share of what it asked for is poor ..."""

POOR_ROUNDS = 3
"""... and after this many poor rounds in a row inventing stops: the teacher has nothing new to give."""

_FIRST_ROUND = 8
_LEAST_YIELD = 0.1
_TOKENS_PER_INPUT = 64
_LONGEST_LINE = 20_000
_MARK = re.compile(
    r"(?:[-*+•–—·>]\s+|\(?\d{1,4}\s*[.):\]](?!\d)\s*|(?:idea|request|wish|need|query|input|prompt|example|item)\s*#?\d+\s*[.):]\s*)+",
    re.IGNORECASE,
)
_PAIRS = (("**", "**"), ("__", "__"), ('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"), ("'", "'"), ("`", "`"))

Ask = Callable[[Ledger, Sequence[Request], Callable[[LedgerRecord], None]], None]
"""Puts a response to every request into the ledger and hands each to the function, in any order."""


@dataclass(frozen=True)
class Inventor:
    """Who invents. ask: see ``Ask``. engine: settings of the engine, of ``mixes.RANGES``.

    retry_failed: ask again for what failed before; otherwise a failed request stays unanswered, unless its
    whole round failed.
    """

    teacher: Teacher
    engine: Mapping[str, Any]
    ask: Ask
    retry_failed: bool = False


@dataclass
class Invention:
    """The growing inputs of one task. Produced by selection, filled here.

    given: what people wrote, the examples to begin with. inputs: what is chosen so far, invented ones last.
    seen: everything that a new input must not repeat. rounds: how many there were; dropped: lines that became no
    input, by reason; exhausted: see ``identity``, set when inventing has stopped.
    """

    task: Task
    given: Sequence[str]
    inputs: list[str]
    invented: list[bool]
    seen: Deduplicator
    rounds: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    exhausted: str | None = None
    poor: int = 0
    share: float = 1.0


def fill(run: Run, inventions: Sequence[Invention], inventor: Inventor, *, num_inputs: int, seed: int) -> None:
    """Invent until every task has ``num_inputs`` inputs, or stop, with a warning that says what was reached.

    The rounds of all tasks run side by side. What a last round brings beyond ``num_inputs`` stays in ``inputs``.
    The run must be held for writing. Raises TeacherError where nothing is answered, and what ``ask`` raises.
    """
    working = [item for item in inventions if len(item.inputs) < num_inputs and _can(item, inventor, num_inputs)]
    with Ledger(run.ledger / FOLDER) as ledger:
        answers = _answers(ledger, inventor) if working else {}
        while working:
            rounds = [(item, _round(item, inventor, num_inputs=num_inputs, seed=seed)) for item in working]
            for _, requests in rounds:
                _forget_failed(answers, requests)
            wanted = [request for _, requests in rounds for request in requests if request.key not in answers]
            if wanted:
                inventor.ask(ledger, wanted, lambda record: answers.update({record.key: record}))
            for item, requests in rounds:
                _accept(item, [answers.pop(request.key) for request in requests])
            working = [item for item in working if len(item.inputs) < num_inputs and not _stopped(item, inventor)]
    for item in inventions:
        if item.exhausted and len(item.inputs) < num_inputs:
            _warn_exhausted(item, num_inputs)


def _answers(ledger: Ledger, inventor: Inventor) -> dict[str, LedgerRecord]:
    answers: dict[str, LedgerRecord] = {}
    for _, record in ledger.entries():
        if record.status == "ok" or not (inventor.retry_failed or record.key in answers):
            answers[record.key] = record
    return answers


def _forget_failed(answers: dict[str, LedgerRecord], requests: Sequence[Request]) -> None:
    """Take a round that failed as a whole in an earlier start out of ``answers``: no input rests on it."""
    records = [answers.get(request.key) for request in requests]
    if all(record is not None and record.status == "failed" for record in records):
        for request in requests:
            del answers[request.key]


def missing(invention: Invention, inventor: Inventor, num_inputs: int) -> int:
    """Return how many inputs ``fill`` would try to invent for the task; 0 where it would not try."""
    if invention.task.invent is None or invention.exhausted == identity(invention, inventor):
        return 0
    return max(0, num_inputs - len(invention.inputs))


def identity(invention: Invention, inventor: Inventor) -> str:
    """Return a hash of what decides what can be invented: teacher, template, settings and given examples."""
    teacher = inventor.teacher
    given = (input_id(text) for text in invention.given)
    return hash_hex(teacher.model, teacher.revision, invention.task.invent, sorted(inventor.engine.items()), *given)


def read_answer(text: str, *, unfinished: bool, words: tuple[int, int], dropped: Counter[str]) -> Iterator[str]:
    """Yield the inputs in an answer, without thoughts, numbering, bullets, quotation marks and emphasis.

    The answer is a list in any form that ``listing.items`` reads. unfinished: it was cut off, so its last line is left
    out. words: shortest and longest length of an input. dropped: receives what other lines were: ``heading`` (and
    remarks around the list), ``refusal``, ``length``, ``structured`` (markup that cannot be read), ``unfinished``.
    """
    lines = [line.strip() for line in without_thoughts(text).splitlines()]
    if unfinished and lines:
        dropped["unfinished"] += 1
        lines.pop()
    for line in items("\n".join(lines)):
        if line is None:
            dropped["structured"] += 1
            continue
        if len(line) > _LONGEST_LINE:
            dropped["length"] += 1
            continue
        bare = _bare(line)
        length = count_words(bare)
        if not length:
            continue
        if line.startswith(("#", "```", "<")) or bare.endswith(":") or is_preamble(bare):
            dropped["heading"] += 1
        elif is_refusal(bare):
            dropped["refusal"] += 1
        elif not words[0] <= length <= words[1]:
            dropped["length"] += 1
        else:
            yield bare


def input_lengths(given: Collection[str]) -> tuple[int, int]:
    """Return the lengths in words that an invented input may have, from those of the given ones."""
    lengths = [count_words(text) for text in given]
    return max(1, min(lengths)), 2 * max(lengths)


def _can(item: Invention, inventor: Inventor, num_inputs: int) -> bool:
    reached = f"task '{item.task.name}': {len(item.inputs):,} of {num_inputs:,} inputs"
    if item.task.invent is None:
        warnings.warn(f"{reached}; {item.task.path} has no 'invent' template to fill up with", stacklevel=3)
        return False
    return item.exhausted != identity(item, inventor)


def _round(item: Invention, inventor: Inventor, *, num_inputs: int, seed: int) -> list[Request]:
    """Return the requests of the task's next round: about as many as the last round's yield makes necessary."""
    needed = math.ceil((num_inputs - len(item.inputs)) / (COUNT * max(_LEAST_YIELD, item.share)))
    size = min(needed, LARGEST_ROUND, _FIRST_ROUND << min(item.rounds, 8))
    invented = [text for text, was in zip(item.inputs, item.invented, strict=True) if was]
    return [
        _request(item, inventor, invented, hash_int(seed, item.task.name, "invent", item.rounds, n, bits=31), n)
        for n in range(size)
    ]


def _request(item: Invention, inventor: Inventor, invented: Sequence[str], seed: int, number: int) -> Request:
    drawn = _draw(invented, SHOWN_INVENTED, seed)
    shown = [*_draw(item.given, SHOWN_SEEDS + SHOWN_INVENTED - len(drawn), seed), *drawn]
    shown.sort(key=lambda text: hash_int(seed, "place", text))
    assert item.task.invent is not None
    examples = "\n".join(" ".join(text.split()) for text in shown)
    messages = ({"role": "user", "content": item.task.invent.format(examples=examples, count=COUNT).strip()},)
    sampling = {"style": "invent", **inventor.engine, "max_tokens": COUNT * _TOKENS_PER_INPUT}
    teacher = inventor.teacher
    key = request_key(
        model=teacher.model,
        revision=teacher.revision,
        engine_arguments=teacher.engine_arguments,
        messages=messages,
        sampling=sampling,
        seed=seed,
    )
    heading = f"new inputs, round {item.rounds}"
    return Request(key, item.task.name, input_id(heading), heading, messages, sampling, seed, number)


def _draw(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Return ``count`` different ones of ``texts`` (fewer where there are fewer), a function of ``seed``."""
    drawn: dict[int, None] = {}
    for attempt in range(8 * count):
        if texts and len(drawn) < min(count, len(texts)):
            drawn[hash_int(seed, "draw", attempt) % len(texts)] = None
    return [texts[position] for position in drawn]


def _accept(item: Invention, records: Sequence[LedgerRecord]) -> None:
    """Take what is new in a round's answers, in the order of its requests."""
    answered = [record for record in records if record.status == "ok"]
    if not answered:
        raise TeacherError(
            f"none of the {len(records)} requests for new inputs of task '{item.task.name}' was answered; the first: "
            f"{records[0].error} (the same command asks again, --no-invent does without)"
        )
    before = len(item.inputs)
    words = input_lengths(item.given)
    for record in answered:
        unfinished = finish_of(record.finish_reason) != "finished"
        for text in read_answer(record.completion or "", unfinished=unfinished, words=words, dropped=item.dropped):
            verdict = item.seen.add(text)
            if verdict == "new":
                item.inputs.append(text)
                item.invented.append(True)
            else:
                item.dropped[verdict] += 1
    item.share = (len(item.inputs) - before) / (COUNT * len(answered))
    item.poor = item.poor + 1 if item.share < POOR else 0
    item.rounds += 1


def _stopped(item: Invention, inventor: Inventor) -> bool:
    if item.poor >= POOR_ROUNDS:
        item.exhausted = identity(item, inventor)
    return item.poor >= POOR_ROUNDS


def _warn_exhausted(item: Invention, num_inputs: int) -> None:
    why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(item.dropped.items()))
    warnings.warn(
        f"task '{item.task.name}': inventing stopped at {len(item.inputs):,} of {num_inputs:,} inputs, because "
        f"{POOR_ROUNDS} rounds in a row brought next to nothing new (left out in all: {why or 'nothing'}); give more "
        "or more different seeds, another 'invent' template, or --inputs",
        stacklevel=3,
    )


def _bare(line: str) -> str:
    """Return a line without list marks, emphasis, quotation marks and the comma of a JSON list."""
    before = None
    while line != before:
        before = line
        line = _MARK.sub("", line, count=1).strip() if _MARK.match(line) else line
        if line.endswith('",'):
            line = line[:-1]
        for left, right in _PAIRS:
            if len(line) > len(left) + len(right) and line.startswith(left) and line.endswith(right):
                line = line[len(left) : -len(right)].strip()
    return line
