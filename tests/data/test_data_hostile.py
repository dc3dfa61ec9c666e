"""Every rule and every pass over a text takes linear time, whatever the text is, and raises nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType

import pytest

from udrl.data import constraints, language, leakage, pii
from udrl.data.borders import borders
from udrl.data.cleaning import clean, rejected_by
from udrl.data.dedup import Deduplicator
from udrl.data.inputs import cut_input, input_id
from udrl.data.ledger import SCHEMA, LedgerRecord
from udrl.data.rules import RULES
from udrl.data.tasks import load_tasks
from udrl.metrics import copy_rate, novelty
from udrl.rewards.reasoning import Format
from udrl.teacher.backends.builtin.phrases import content_phrases, passages
from udrl.words import SENTENCE_END, folded_words, join_words

[TASK] = load_tasks(["text-to-image"])
LENGTH = 10_000
PATIENCE = 0.5
"""CPU seconds of one pass over LENGTH characters: a linear one takes 0.1 at most, a quadratic one 1.3 or more."""

UNITS = (
    *" \n\t.,:;'\"`*_#<>()[]{}|/\\-+=@%$0a",
    *("\u00a0", "\u2028", "\u200b", "\u0301", "\u202e", "\x00", "\ud800", "🦊", "字", "ก", "ิ", "a\u0301", "½", "“"),
    *(
        "a ",
        "1,",
        "1.",
        "1 ",
        "0a",
        "a@",
        "a.",
        "a-",
        "a'",
        "://",
        "://a:",
        "+1 ",
        "00",
        "a:",
        "::",
        " \n",
        "\n\n",
        ":\n",
    ),
    *(
        "1/",
        "10^",
        "1e",
        "\\frac{1}{",
        "\\boxed{",
        "#### ",
        "answer is ",
        "answer: 1 ",
        "= ",
        "the ",
        "prompt ",
        "of a ",
    ),
    *("<s>", "</s>", "<|", "<|im_end|>", "[INST]", "```\n", "~~~ ", "### Response:\n", "User: ", '"a"\n', "Note: "),
    *("here is ", "let me know if ", "i'm sorry ", "translate ", "字 ", "жж", "a@b.co ", "Use the word 'a'. ", "DE00 "),
)
FRAMES = (
    ("", ""), ("```\n", "\n```"), ("Prompt", "x"), ('"a"', "x"), ('"', '"'), ("x", "<|im_end|>"), ("a", "@b"),
    ("Here is your prompt:", ""), ("a red fox\n\n", "I hope this helps"), ("Assistant", ":"), ("字字字字", "字"),
    ("1", "1"),
)  # fmt: skip


def record(text: str) -> LedgerRecord:
    return LedgerRecord(
        SCHEMA, "key", "ok", None, 1, TASK.name, input_id(text), text, ({"role": "user", "content": text},), text,
        "stop", "tiny", None, {}, 1, 0, 1, 1, 0.0, 0.0,
    )  # fmt: skip


def alone(rule: str) -> Callable[[str], object]:
    """Return what tries one rule by itself: no other can reject the text before."""
    task = replace(TASK, allow=frozenset(RULES) - {rule})
    return lambda text: rejected_by(replace(record(text), messages=()), task)


PASSES: dict[str, Callable[[str], object]] = {
    **{f"rule {rule}": alone(rule) for rule in RULES},
    **{f"repair {place} {rule}": attempt for place, (rule, attempt) in enumerate(leakage._ATTEMPTS)},
    **{
        f"personal data {place} {kind}": lambda text, pattern=pattern: sum(1 for _ in pattern.finditer(text))
        for place, (kind, pattern, _) in enumerate(pii._KINDS)
    },
    "clean": lambda text: clean(record(text), TASK),
    "mask": pii.mask,
    "language": lambda text: language.is_foreign(text, words=folded_words(text), request=text, given=text),
    "borders": borders,
    "cut": cut_input,
    "words": lambda text: join_words(folded_words(text)),
    "sentences": lambda text: SENTENCE_END.split(text),
    "constraints": lambda text: constraints.kept(text, text),
    "near duplicates": lambda text: [Deduplicator().add(one) for one in (text, f"{text} again")],
    "novelty": lambda text: novelty(text, text),
    "copy rate": lambda text: copy_rate(text, text),
    "format": lambda text: Format()([text], [text]),
    "phrases": content_phrases,
    "passages": passages,
}


@pytest.fixture
def limited() -> Iterator[Callable[[Callable[[str], object], str], None]]:
    """Give a function that runs a pass and fails where it takes too much CPU time; other load does not count.

    Regular expressions look for signals while they search.
    """

    def give_up(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"more than {PATIENCE} seconds")

    def run(one: Callable[[str], object], text: str) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
        one(text)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    before = signal.signal(signal.SIGVTALRM, give_up)
    yield run
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("name", PASSES)
def test_hostile_repetitions_take_linear_time(name: str, limited: Callable[..., None]) -> None:
    for unit in UNITS:
        limited(PASSES[name], (unit * LENGTH)[:LENGTH])


@pytest.mark.parametrize("name", [name for name in PASSES if name.startswith(("rule", "repair", "clean"))])
def test_hostile_middles_take_linear_time(name: str, limited: Callable[..., None]) -> None:
    for start, end in FRAMES:
        for unit in (" ", "\n", " \n", "a ", '"'):
            limited(PASSES[name], start + unit * (LENGTH // len(unit)) + end)


def test_hostile_passes_name_every_rule() -> None:
    assert {name.removeprefix("rule ") for name in PASSES if name.startswith("rule ")} == set(RULES)
