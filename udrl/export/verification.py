"""Does an export write what torch writes? Measured on validation inputs before it is used.

Float formats must write the same greedy tokens, but for near ties: sums in another order, or keys and values in half
precision as llama.cpp keeps them, may settle those otherwise, and all that follows. int8 may not, so what counts there
is what the student is for: the relevance of its completions, and that it obeys as before, under the sampling that
ships.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol

import numpy as np

from udrl.commands import LENGTH
from udrl.decoding.wording import Vocabulary
from udrl.errors import StudentError
from udrl.metrics import spearman_within
from udrl.rewards.protocol import covered
from udrl.student.answers import Score, achieved
from udrl.student.prompts import fit_prompts
from udrl.student.student import Student
from udrl.tokenizer import decode

PROMPTS = 32
"""Commanded prompts whose greedy tokens are compared, and inputs that are swept."""
NEAR = 0.05
"""Two ids whose logits in torch are no further apart are a near tie: one is at most 5 % likelier than the other."""
LEVELS = 4
"""Positions at which each attribute is commanded, from the lowest to the highest, the others open."""
SAMPLES = 2
"""Completions of an input at each level."""
RELEVANCE = "relevance"
RELEVANCE_WITHIN = 0.01
"""Most that mean relevance may change, as a share of it."""
SPEARMAN_WITHIN = 0.02
"""Most that the rank correlation of commanded and achieved may fall."""
SHIFT_WITHIN = 0.05
"""Most that what the commands achieve may move, as a share of the training episodes' 10-90 range."""

Wish = tuple[str, str, Mapping[str, float]]
"""Task, input, positions of the attributes that are commanded."""

Written = tuple[int, ...] | str
"""What a program wrote: ids without the end, or the text of one that gives no ids."""


class Answerer(Protocol):
    """What continues inputs under rendered commands: the student on one of its engines, or another program."""

    def greedy(self, texts: Sequence[str], controls: Sequence[Sequence[int]]) -> Sequence[Written]:
        """Return what is written greedily."""
        ...

    def sampled(self, texts: Sequence[str], controls: Sequence[Sequence[int]]) -> list[str]:
        """Return completions with the sampling that ships."""
        ...


@dataclass(frozen=True)
class EngineAnswerer:
    """A student on one of our engines."""

    student: Student
    seed: int

    def greedy(self, texts: Sequence[str], controls: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """Return ids; without guidance, so that they are the likeliest by the logits themselves."""
        ids: list[list[int]] = [[] for _ in texts]
        greedy = replace(self.student.sampling, temperature=0, guidance=1.0)
        self.student.generate_ids(texts, controls, sampling=greedy, on_token=lambda row, token: ids[row].append(token))
        return [tuple(row) for row in ids]

    def sampled(self, texts: Sequence[str], controls: Sequence[Sequence[int]]) -> list[str]:
        """Return completions."""
        return [one.completion for one in self.student.generate_ids(texts, controls, seeds=self.seed)]


@dataclass(frozen=True)
class Verification:
    """What was found. Pairs are (torch, export).

    same_tokens: share of the prompts with the same greedy tokens; near_ties: how many of the others, in a float
    format, part from torch where it finds two tokens (nearly) as likely; relevance: means over the sweep; spearman: by
    attribute, within input, mean over inputs; shift: by attribute, mean over levels of how far the mean achieved value
    moved, as a share of the training episodes' 10-90 range; reasons: why it did not pass.
    """

    passed: bool
    reasons: tuple[str, ...]
    prompts: int
    same_tokens: float
    relevance: tuple[float, float] | None = None
    spearman: Mapping[str, tuple[float, float]] | None = None
    shift: Mapping[str, float] | None = None
    completions: int = 0
    near_ties: int = 0


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def verify_tokens(
    student: Student, answerers: tuple[EngineAnswerer, Answerer], inputs: Mapping[str, Sequence[str]], *, seed: int = 0
) -> Verification:
    """Compare what ``student`` in torch and its export write greedily for ``PROMPTS`` commanded prompts.

    All must be the same, up to a near tie. inputs: validation inputs by task, prompts are spread over them; every
    attribute is commanded at random.
    """
    share, parted = _compare(student, answerers, inputs, seed)
    wrong = sum(not one.at_near_tie(student) for one in parted)
    reasons = (f"{wrong} of {PROMPTS} prompts get other tokens",) if wrong else ()
    return Verification(not reasons, reasons, PROMPTS, share, near_ties=len(parted) - wrong)


def verify_obedience(
    student: Student,
    answerers: tuple[EngineAnswerer, Answerer],
    inputs: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Score],
    *,
    seed: int = 0,
) -> Verification:
    """Sweep commands with both answerers and compare relevance and obedience; see `Verification`.

    rewards: relevance, and those of the student's attributes that can be computed; one that does not know all of the
    inputs is left out.
    """
    share, _ = _compare(student, answerers, inputs, seed)
    levels = np.linspace(0, student.space.bins - 1, LEVELS).tolist()
    chosen = _spread(inputs, PROMPTS)
    rewards = {name: one for name, one in rewards.items() if all(covered(one, [text for _, text in chosen]))}
    swept = [name for name in student.attributes if name == LENGTH or name in rewards]
    wishes: list[Wish] = [
        (task, text, {name: level})
        for name in swept
        for task, text in chosen
        for level in levels
        for _ in range(SAMPLES)
    ]
    if not swept:  # a student without commands
        wishes = [(task, text, {}) for task, text in chosen for _ in range(LEVELS * SAMPLES)]
    texts = [text for _, text, _ in wishes]
    controls = [student.space.render(task, positions) for task, _, positions in wishes]
    values = [achieved(texts, one.sampled(texts, controls), rewards) for one in answerers]
    means = (fmean(_numbers(values[0][RELEVANCE])), fmean(_numbers(values[1][RELEVANCE])))
    shape = (len(swept), len(chosen), LEVELS * SAMPLES)
    asked = np.repeat(levels, SAMPLES)
    spearman: dict[str, tuple[float, float]] = {}
    shift: dict[str, float] = {}
    for index, name in enumerate(swept):
        first, second = (np.asarray(of[name], dtype=float).reshape(shape)[index] for of in values)
        spearman[name] = _within(asked, first), _within(asked, second)
        moved = (second - first) / np.array([_range(student, task, name) for task, _ in chosen])[:, None]
        shift[name] = float(np.abs(moved.reshape(-1, LEVELS, SAMPLES).mean((0, 2))).mean())
    reasons = []
    if abs(means[1] - means[0]) > RELEVANCE_WITHIN * abs(means[0]):
        reasons.append(f"relevance is {means[1]:.3f} instead of {means[0]:.3f}")
    for name in swept:
        if spearman[name][0] - spearman[name][1] > SPEARMAN_WITHIN:
            reasons.append(f"{name} is followed with {spearman[name][1]:.3f} instead of {spearman[name][0]:.3f}")
        if shift[name] > SHIFT_WITHIN:
            reasons.append(f"the achieved {name} moves by {shift[name]:.1%} of its range")
    return Verification(
        not reasons, tuple(reasons), PROMPTS, share, means, spearman, shift, completions=2 * len(wishes)
    )


def _spread(inputs: Mapping[str, Sequence[str]], count: int) -> list[tuple[str, str]]:
    """Return ``count`` pairs (task, input), spread over the tasks; inputs come again where there are fewer."""
    tasks = [task for task, texts in inputs.items() if texts]
    if not tasks:
        raise StudentError("an export is verified on validation inputs, and the run has none: synthesise more inputs")
    return [(task, inputs[task][k // len(tasks) % len(inputs[task])]) for k, task in _turns(tasks, count)]


def _turns(tasks: Sequence[str], count: int) -> list[tuple[int, str]]:
    return [(k, tasks[k % len(tasks)]) for k in range(count)]


@dataclass(frozen=True)
class Parted:
    """A prompt that torch continues with ``ids`` and the export otherwise."""

    text: str
    control: Sequence[int]
    ids: tuple[int, ...]
    other: Written

    def at_near_tie(self, student: Student) -> bool:
        """Say whether the first id that the export writes otherwise is (nearly) as likely as torch's own by its logits.

        A text may be cut into ids in several ways: any id will do that it may begin to differ by.
        """
        as_text = isinstance(self.other, str)
        pieces = Vocabulary(student.tokenizer, student.space.base, student.ends).pieces if as_text else []

        def raw(ids: Sequence[int]) -> bytes | tuple[int, ...]:
            return b"".join(pieces[one] for one in ids).removeprefix(b" ") if as_text else tuple(ids)

        mine, other = raw(self.ids), self.other.encode() if isinstance(self.other, str) else self.other
        [prompt] = fit_prompts(
            student.tokenizer, student.computes, [self.text], [self.control], student.sampling.max_tokens
        )
        session, logits = student.computes.start([prompt.ids])
        for index in range(prompt.limit):
            before = self.ids[:index]
            next_id = self.ids[index] if index < len(self.ids) else max(student.ends, key=lambda end: logits[0, end])
            for one in np.flatnonzero(logits[0] >= logits[0, next_id] - NEAR).tolist():
                begun = raw((*before, one))
                if other == raw(before) if one in student.ends else _begins(other, begun) and not _begins(mine, begun):
                    return True
            if next_id in student.ends or not _begins(other, raw((*before, next_id))):
                return False
            logits = session.step(np.array([next_id]))
        return False


def _begins(whole: bytes | tuple[int, ...], part: bytes | tuple[int, ...]) -> bool:
    return whole[: len(part)] == part


def _as(other: Written, ids: tuple[int, ...], student: Student) -> Written:
    """Return ``ids`` in the form of ``other``: a text lacks the character that it was cut in, as other programs' do."""
    return decode(student.tokenizer, list(ids)).rstrip("\ufffd") if isinstance(other, str) else ids


def _compare(
    student: Student, answerers: tuple[EngineAnswerer, Answerer], inputs: Mapping[str, Sequence[str]], seed: int
) -> tuple[float, list[Parted]]:
    """Return the share of ``PROMPTS`` prompts that are continued alike, greedily, and the others."""
    rng = np.random.default_rng(seed)
    pairs = _spread(inputs, PROMPTS)
    space = student.space
    controls = [
        space.render(task, {name: float(rng.uniform(0, space.bins - 1)) for name in student.attributes})
        for task, _ in pairs
    ]
    texts = [text for _, text in pairs]
    mine, other = answerers[0].greedy(texts, controls), answerers[1].greedy(texts, controls)
    rows = [Parted(*row) for row in zip(texts, controls, mine, other, strict=True)]
    parted = [row for row in rows if _as(row.other, row.ids, student) != row.other]
    return 1 - len(parted) / len(rows), parted


def _within(asked: Any, values: Any) -> float:
    return fmean(spearman_within(asked, row) for row in values)


def _range(student: Student, task: str, name: str) -> float:
    low, high = (student.space.quantile(task, name, q) for q in (0.1, 0.9))
    return high - low or 1.0
