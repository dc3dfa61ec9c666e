"""Rewards for reasoning: whether the final number is right, whether it is declared as asked, and how long that took."""

from __future__ import annotations

import math
from collections.abc import Sequence

from udrl.data.arithmetic import parse
from udrl.data.inputs import input_id
from udrl.data.known_answers import Answers
from udrl.errors import RewardError
from udrl.numerals import Number, declarations, final_number, plain
from udrl.words import count_words, words

LONGEST = 64
"""Words from which ``cosine_length`` does not change any more, where none are named (``cosine_length:200``)."""

REASONED = 3
"""Words that must stand before a declared answer: ``3 + 4 = 7.`` has three."""

UNIT_WORDS = 3
"""Words without a number that may follow a declared answer: ``The answer is 7 red apples.``"""


class Accuracy:
    """1 where the number that a completion gives as its answer is the known one, else 0.

    The completion's number is the declared one (``#### 7``, ``\\boxed{7}``, ``The answer is 7``, ``"answer": "7"``),
    else its last, see ``udrl.numerals``; how it is written does not matter. The known one is read in the same way from
    the answers of the run, else computed, for a generated problem, from its text.
    """

    name = "accuracy"
    low = 0.0
    high = 1.0
    unit = ""
    needs = (
        "its right answer is not known; give a table with the columns input and answer (udrl score --answers FILE), or "
        "inputs that have a column answer"
    )

    def __init__(self, answers: Answers | None = None) -> None:
        """answers: by input id, see ``udrl.data.known_answers``."""
        self._answers = {} if answers is None else answers
        self._known: dict[str, Number | None] = {}

    def knows(self, text: str) -> bool:
        """Say whether the answer of the input ``text`` is known."""
        return self._answer(text) is not None

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Return 1 or 0 for each pair; raises RewardError for an input whose answer nobody knows."""
        return [float(self._right(text, completion)) for text, completion in zip(inputs, completions, strict=True)]

    def _right(self, text: str, completion: str) -> bool:
        known = self._answer(text)
        if known is None:
            raise RewardError(f"reward '{self.name}' cannot be computed for the input {text[:60]!r}: {self.needs}")
        answer = final_number(completion)
        return answer is not None and answer.equals(known)

    def _answer(self, text: str) -> Number | None:
        if text not in self._known:
            given = self._answers.get(input_id(text))
            if given is None:
                problem = parse(text)
                given = None if problem is None else str(problem.answer)
            self._known[text] = None if given is None else final_number(given)
        return self._known[text]


class Format:
    """How well an answer is declared, in thirds; 0 where none is, or more than one.

    One third for a single declaration (of the forms that ``Accuracy`` knows), one where it stands at the end (nothing
    follows but marks and up to UNIT_WORDS words of a unit), one where at least REASONED words of reasoning stand before
    it. Whether the answer is right does not matter.
    """

    name = "format"
    low = 0.0
    high = 1.0
    unit = ""

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Return the share for each completion."""
        if len(inputs) != len(completions):
            raise RewardError(f"format needs pairs: {len(inputs)} inputs, {len(completions)} completions")
        return [_declared(completion) / 3 for completion in completions]


class CosineLength:
    """A right answer is worth the more the shorter it is, a wrong one the less: a cosine of the length in words.

    Right: from 1 (no word) down to 0.5 (``longest`` words); wrong: from -1 (no word) up to -0.5. From ``longest`` words
    on the value stays. This is the reward that Open-RS (arXiv 2503.16219) describes; the code it was published with
    measures characters against a limit in tokens, and beyond the limit its cosine turns round.
    """

    name = "cosine_length"
    low = -1.0
    high = 1.0
    unit = ""

    def __init__(self, answers: Answers | None = None, *, longest: int = LONGEST) -> None:
        """longest: words, at least 1; raises RewardError below."""
        if longest < 1:
            raise RewardError(f"cosine_length is clamped from at least 1 word on, found {longest}: name more")
        self.longest = longest
        self._accuracy = Accuracy(answers)
        self.needs = self._accuracy.needs

    def knows(self, text: str) -> bool:
        """Say whether the answer of the input ``text`` is known."""
        return self._accuracy.knows(text)

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Return the value of each pair; raises RewardError as ``Accuracy`` does."""
        right = self._accuracy(inputs, completions)
        return [
            self.value(value == 1.0, count_words(completion))
            for value, completion in zip(right, completions, strict=True)
        ]

    def value(self, right: bool, length: int) -> float:
        """Return what a right or wrong answer of ``length`` words is worth."""
        falling = 0.5 + 0.25 * (1 + math.cos(math.pi * min(length, self.longest) / self.longest))  # 1 to 0.5
        return falling if right else -falling


def _declared(completion: str) -> int:
    """Return how many of the three parts of ``Format`` hold."""
    text = plain(completion)
    declared = declarations(text)
    if len(declared) != 1:
        return 0
    begin, number = declared[0]
    rest = text[number.end :]
    at_end = count_words(rest) <= UNIT_WORDS and not any(word[0].isdigit() for word in words(rest))
    return 1 + at_end + (count_words(text[:begin]) >= REASONED)
