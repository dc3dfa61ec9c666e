"""Commanded lengths, kept to the word by a made-up student, which writes whole clauses of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from udrl.commands import Attribute, Command, CommandSpace
from udrl.decoding.engine import Array
from udrl.decoding.governor import Clauses, Governor
from udrl.decoding.loop import decode_requests
from udrl.decoding.requests import Decoded, Request
from udrl.decoding.sampling import Sampling
from udrl.decoding.wording import Vocabulary, Wording, Writer
from udrl.student.student import Student
from udrl.tokenizer import decode, encode, train_tokenizer
from udrl.words import count_words

SUBJECTS = ("a red fox in the snow", "two boats", "an old harbour at dawn")
CLAUSES = {
    "quiet": 0.30,
    "soft morning light": 0.25,
    "shallow depth of field": 0.20,
    "fine grain": 0.15,
    "muted palette of earth and rust": 0.07,
    "mist": 0.03,
}
"""What the student writes behind its subject, with how probable each is."""
TEXTS = [", ".join([*SUBJECTS, *CLAUSES]) + "."] * 40
END = 0.02
"""How probable the end is behind each clause: by itself, the student writes some fifty of them."""
WARM, GREEDY = Sampling(temperature=0.7, no_repeat=0), Sampling(temperature=0)


@cache
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 320)


@cache
def spellings() -> dict[str, list[int]]:
    return {text: encode(tokenizer(), [text])[0] for text in (*SUBJECTS, *CLAUSES)}


@cache
def clauses() -> Clauses:
    return Clauses(tokenizer(), len(tokenizer()), (tokenizer().eos_token_id,))


def written_of(prompt: Sequence[int]) -> list[int]:
    """Return what of a prompt is written already: what stands behind the command, or behind the first id."""
    controls = [place for place, token in enumerate(prompt) if token >= ListStudent.space.base]
    return list(prompt[1 + max(controls, default=0) :])


class ListStudent:
    """Begins with the subject whose number is the first id of its prompt, and goes on with clauses of a list.

    clauses: how probable each is; is_spoken: clauses are sentences, and it ends behind their full stops.
    """

    context, joins, name, precision, parameters, device = 600, True, "list", "fp32", 0, "cpu"
    space = CommandSpace.fit(
        320, (Attribute("length", 1, 100, "words"),), {"t": {"length": [float(6 + k % 25) for k in range(600)]}}
    )

    def __init__(self, clauses: Mapping[str, float] = CLAUSES, *, is_spoken: bool = False) -> None:
        self.clauses, self.is_spoken = clauses, is_spoken
        self.mark = encode(tokenizer(), ["." if is_spoken else ","])[0][-1]
        self.rows: list[list[int]] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[ListStudent, Array]:
        session = ListStudent(self.clauses, is_spoken=self.is_spoken)
        session.rows = [[min(prompt[0], 2), *written_of(prompt)] for prompt in prompts]
        return session, session.logits()

    def step(self, ids: Array) -> Array:
        for row, token in zip(self.rows, ids.tolist(), strict=True):
            row.append(token)
        return self.logits()

    def keep(self, rows: Array) -> None:
        self.rows = [self.rows[row] for row in rows]

    def join(self, other: ListStudent) -> None:
        self.rows += other.rows

    def logits(self) -> Array:
        return np.stack([self.next(row) for row in self.rows])

    def next(self, row: list[int]) -> Array:
        chances, end = np.full(len(tokenizer()), 1e-9), tokenizer().eos_token_id
        marks = [place for place, token in enumerate(row) if place and token == self.mark]
        clause = row[1 + max(marks, default=0) :]
        choices = self.clauses if marks else {SUBJECTS[row[0]]: 1.0}
        for text, share in choices.items():
            ids = spellings()[text]
            if ids == clause:
                chances[end], chances[self.mark] = (0, 1) if self.is_spoken else (END, 1 - END)
            elif ids[: len(clause)] == clause:
                chances[ids[len(clause)]] += share
        if self.is_spoken and marks and not clause:
            chances[end] = END
        logits: Array = np.log(np.maximum(chances / chances.sum(), 1e-9)).astype(np.float32)
        return logits


def request(length: int | None, *, subject: int = 0, seed: int = 0, sampling: Sampling = WARM, **more: Any) -> Request:
    governor = None if length is None else Governor(length, clauses(), is_soft=sampling.length_control == "soft")
    ends, limit = (tokenizer().eos_token_id,), more.pop("limit", 400)
    return Request((subject,), seed, sampling, limit, ends, unasked=(subject,), governor=governor, **more)


def written(student: ListStudent, asked: Sequence[Request], most: int | None = None) -> list[Decoded]:
    """Return what each request gets; what is told of it id by id is the same."""
    ended: dict[int, Decoded] = {}
    tokens: dict[int, list[int]] = {number: [] for number in range(len(asked))}
    for step in decode_requests(student, asked, most=most):
        if step.token is not None:
            tokens[step.handle].append(step.token)
        if step.decoded is not None:
            ended[step.handle] = step.decoded
    assert {handle: one.ids for handle, one in ended.items()} == tokens
    return [ended[number] for number in range(len(asked))]


def text_of(one: Decoded) -> str:
    return decode(tokenizer(), one.ids)


@pytest.mark.parametrize("sampling", [WARM, GREEDY], ids=["warm", "greedy"])
def test_a_completion_has_the_commanded_words_and_ends_with_a_whole_clause(sampling: Sampling) -> None:
    lengths = [8, 16, 23, 64]
    made = written(ListStudent(), [request(n, seed=n, sampling=sampling) for n in lengths])
    for length, one in zip(lengths, made, strict=True):
        first, *others = text_of(one).split(", ")
        assert (count_words(text_of(one)), one.stopped) == (length, True)
        assert (first, set(others) <= set(CLAUSES)) == (SUBJECTS[0], True), text_of(one)


def test_sentences_end_behind_their_full_stop() -> None:
    lengths = (9, 16, 30)
    for length, one in zip(lengths, written(ListStudent(is_spoken=True), [request(n) for n in lengths]), strict=True):
        text = text_of(one)
        assert (count_words(text), text[-1]) == (length, ".")
        assert set(text.rstrip(".").split(". ")) <= {SUBJECTS[0], *CLAUSES}


@pytest.mark.parametrize(("length", "nearest"), [(10, 12), (12, 12), (13, 12), (14, 12), (16, 18), (24, 24)])
def test_where_no_clause_ends_at_the_length_the_nearest_end_is_taken(length: int, nearest: int) -> None:
    long = "muted palette of earth and rust"  # six words, as the first subject has
    (one,) = written(ListStudent({long: 1.0}), [request(length)])
    assert text_of(one) == ", ".join([SUBJECTS[0]] + [long] * (nearest // 6 - 1))


@pytest.mark.parametrize("length", [10, 15, 20])
def test_soft_control_ends_with_the_clause_that_reaches_the_length(length: int) -> None:
    sampling = Sampling(0.7, length_control="soft")
    for seed in range(4):
        (one,) = written(ListStudent(), [request(length, seed=seed, sampling=sampling)])
        before, _, clause = text_of(one).rpartition(", ")
        assert clause in CLAUSES
        assert count_words(before) < length
        assert count_words(text_of(one)) >= length - 2


def test_companions_change_nothing() -> None:
    """Lengths, open ones, guidance and limits beside one another, some of which join later."""
    samplings = [WARM, GREEDY, Sampling(0.7, guidance=1.5), Sampling(0.9, top_p=0.8)]

    def asked() -> list[Request]:
        lengths = [12, None, 20, 9, 31, 14, None, 16]
        return [
            request(n, subject=k % 3, seed=k, sampling=samplings[k % 4], limit=60 if n is None else 400)
            for k, n in enumerate(lengths)
        ]

    alone = [written(ListStudent(), [one])[0] for one in asked()]
    assert written(ListStudent(), asked()) == alone
    assert written(ListStudent(), asked(), most=3) == alone
    kept = [count_words(text_of(one)) for one, of in zip(alone, asked(), strict=True) if of.governor]
    assert np.abs(np.subtract(kept, [12, 20, 9, 31, 14, 16])).max() <= 1


def test_required_and_banned_words_hold_beside_a_length() -> None:
    vocabulary = Vocabulary(tokenizer(), len(tokenizer()))
    for seed in range(3):
        writer = Writer(Wording(require=("mist",), ban=("quiet",)), vocabulary, 400)
        (one,) = written(ListStudent(), [request(20, seed=seed, writer=writer)])
        clauses_of = text_of(one).split(", ")
        assert (count_words(text_of(one)), "mist" in clauses_of, "quiet" in clauses_of) == (20, True, False)


def test_a_limit_of_tokens_cuts_before_the_length_is_reached() -> None:
    (one,) = written(ListStudent(), [request(40, limit=10)])
    assert (len(one.ids), one.stopped) == (10, False)


def test_words_are_counted_as_they_are_written() -> None:
    governor = Governor(40, clauses())
    for count, token in enumerate(ids := encode(tokenizer(), ["soft-edged, don't. A red fox"])[0], 1):
        governor.add(token)
        assert governor.words == count_words(decode(tokenizer(), ids[:count]))
    assert governor.left == 35


def test_a_student_keeps_commanded_lengths_where_it_is_told_to() -> None:
    student = Student(ListStudent(), tokenizer(), name="list", sampling=Sampling(0.7, length_control="exact"))
    targets: list[dict[str, float]] = [{"length": 17.4}, {"length": 25}, {"length": 90}]
    inputs, commands = ["red", "boats", "fox"], [Command("t", of) for of in targets]
    texts = [one.completion for one in student.generate(inputs, commands, warn=False)]
    kept = [count_words(text) for text in texts]
    assert np.abs(np.subtract(kept, [17, 25, 30])).max() <= 1  # 30 are the most that are reached
    assert ["".join(student.stream("red", commands[0]))] == texts[:1]
    # open lengths, a command as it stands, and control that is off leave all to the student
    off = Sampling(0.7, max_tokens=50)
    plain = student.generate_ids(
        inputs, [control for control, _ in student.rendered(commands, warn=False)], sampling=off
    )
    assert student.generate(inputs, commands, sampling=off, warn=False) == [
        replace(one, clamped=given.clamped)
        for one, given in zip(plain, student.generate(inputs, commands, warn=False), strict=True)
    ]
    exact = replace(student.sampling, max_tokens=50)
    raw = student.generate(inputs, commands, calibrated=False, sampling=exact, warn=False)
    assert [one.completion for one in raw] == [one.completion for one in plain]
