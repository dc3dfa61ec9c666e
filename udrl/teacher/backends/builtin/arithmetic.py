"""Invents arithmetic problems and works them out: rightly, or with the slips that people make."""

from __future__ import annotations

import random
from collections.abc import Iterator

from udrl.data.arithmetic import GAINS, LARGEST, LOSSES, Problem, applied, parse
from udrl.words import count_words

RIGHT = 0.65
"""Fidelity from which the answer is right: of the samples of an input, the first and second of every four."""

PLAIN = 0.8
"""Share of the completions that give their answer in the declared form, ``#### 7``."""

SHARES = {1: 0.35, 2: 0.30, 3: 0.25, 4: 0.10}
"""Share of each level among invented problems."""

NAMES = (
    "Amy Ann Ben Dan Eva Ida Jim Joe Jon Kai Kim Leo Lia Liz Max Meg Mia Ned Noa Pam Ray Rob Ron Sam Sue Ted Tim Tom "
    "Uma Val Wes Zoe"
).split()
THINGS = (
    "apples balls beads bells boats books buns cakes cards coins cups dolls drums eggs figs hats keys kites leaves "
    "nuts pears pens plums rings roses seeds shells stamps stones toys"
).split()
_SLIPS = (-2, -1, 1, 2)


def invent(task: str, *, seed: int) -> Iterator[str]:
    """Yield problems of all levels without end; the same ``seed`` gives the same stream."""
    rng = random.Random(f"invent/{task}/{seed}")
    while True:
        (level,) = rng.choices(tuple(SHARES), weights=tuple(SHARES.values()))
        problem = _problem(level, rng)
        if problem.level == level:
            yield problem.text


def write(text: str, *, fidelity: float, words: int | None, rng: random.Random) -> str | None:
    """Work the problem ``text`` out; None where it is not of the language of ``udrl.data.arithmetic``.

    fidelity: from RIGHT on the answer is right, below it is wrong by a slip in one step. words: length aimed at (None:
    the plain form, always with the declared answer).
    """
    problem = parse(text)
    if problem is None:
        return None
    values = [problem.first, *problem.results] if fidelity >= RIGHT else _slipped(problem, rng)
    layouts = _layouts(problem, values)
    body = layouts[0] if words is None else min(layouts, key=lambda one: abs(count_words(one) + 1 - words))
    if words is None or rng.random() < PLAIN:
        return f"{body} #### {values[-1]}"
    return f"{body} The answer is {values[-1]}." if rng.random() < 0.5 else f"{values[-1]}"


def _problem(level: int, rng: random.Random) -> Problem:
    largest = LARGEST[level]
    value = rng.randint(2, largest)
    each: int | None = None
    if level in (2, 3, 4) and rng.random() < (0.3 if level == 2 else 0.2):
        each = rng.randint(2, 9)
        value = rng.randint(2, max(2, largest // each))
    first, now = value, value if each is None else value * each
    changes = []
    for _ in range((1 if level < 3 else 2) - (each is not None)):
        gains = now < largest and (now == 0 or rng.random() < 0.5)
        number = rng.randint(1, max(1, largest - now if gains else now))
        changes.append((rng.choice(GAINS if gains else LOSSES), number))
        now += number if gains else -number
    return Problem(rng.choice(NAMES), rng.choice(THINGS), first, each, tuple(changes))


def _slipped(problem: Problem, rng: random.Random) -> list[int]:
    """Return the values on the way with one step wrong: off by one or two, or by the wrong operator."""
    wrong = rng.randrange(len(problem.operations))
    operator, number = problem.operations[wrong]
    before = (problem.first, *problem.results)[wrong]
    other = before - number if operator == "+" else before + number
    near = [problem.results[wrong] + slip for slip in _SLIPS]
    choices = [value for value in (*near, other) if value >= 0 and value != problem.results[wrong]]
    values = [problem.first, *problem.results[:wrong], rng.choice(choices)]
    for operator, number in problem.operations[wrong + 1 :]:
        values.append(applied(values[-1], operator, number))
    return values


def _layouts(problem: Problem, values: list[int]) -> list[str]:
    """Return ways to write the steps down, from the plain one to the one with most words."""
    steps = [
        f"{before} {operator} {number} = {after}"
        for before, (operator, number), after in zip(values, problem.operations, values[1:], strict=False)
    ]
    plain = ". ".join(steps)
    done = {"+": "Add", "-": "Take", "*": "Times"}
    told = " ".join(
        f"{done[operator]} {number}: {step}."
        for (operator, number), step in zip(problem.operations, steps, strict=True)
    )
    return [
        f"{plain}.",
        f"{problem.who} has {plain}.",
        f"{problem.who} has {plain} {problem.thing}.",
        f"Start with {problem.first}. {told}",
    ]
