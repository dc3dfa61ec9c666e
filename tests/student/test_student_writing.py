"""A small student writes: guided, with required and banned words, as a stream, as answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from udrl.commands import Command
from udrl.decoding.sampling import Sampling
from udrl.decoding.streaming import settled
from udrl.decoding.wording import Vocabulary, Wording, Writer, contains
from udrl.errors import UsageError
from udrl.student import load
from udrl.student.answers import answer, distance
from udrl.student.student import Student
from udrl.tokenizer import encode

pytestmark = pytest.mark.filterwarnings("default:target .* is beyond what")  # the small student reaches nothing yet


GREEDY = Sampling(temperature=0)
SHARP = Sampling(temperature=0.7, top_p=0.9, no_repeat=3)


INPUTS = ["a red fox in the snow", "zwei Füchse — 猫", "the old harbour"]
COMMANDS = [Command("text-to-image", {"length": 12.0}), Command("search-query"), Command("text-to-image")]


@pytest.fixture(scope="module")
def small_student(small_run: Path) -> Student:
    return load(small_run, device="cpu", precision="fp32")


@pytest.fixture
def generate(small_student: Student) -> Callable[..., list[str]]:
    def call(sampling: Sampling | None = None, wording: Wording | None = None, **options: Any) -> list[str]:
        made = small_student.generate(INPUTS, COMMANDS, seeds=7, sampling=sampling, wording=wording, **options)
        return [one.completion for one in made]

    return call


def test_vocabulary_knows_the_bytes_of_every_id(small_student: Student) -> None:
    pieces = small_student.vocabulary.pieces
    text = "Füchse art — naïve 猫 <|endoftext|> x\n\t\u00a0 🦊"
    ids = encode(small_student.tokenizer, [text])[0]
    assert b"".join(pieces[id_] for id_ in ids).decode() == " " + text


def test_wording_never_takes_an_id_that_stands_for_no_text(small_student: Student) -> None:
    size = small_student.space.base
    wide = Vocabulary(small_student.tokenizer, size + 3)  # as models whose embedding was padded
    assert wide.nothing.tolist() == [size, size + 1, size + 2]
    logits = np.zeros(size + 3, dtype=np.float32)
    logits[size] = 20
    logits[5] = 10
    writer = Writer(Wording(ban=("art",)), wide, 8)
    assert writer.next(logits, lambda of, _: int(of.argmax()), lambda _: logits) == 5


def test_same_seed_and_input_give_the_same_completion_wherever_they_stand(small_student: Student) -> None:
    command, sampling = Command("text-to-image", {}), Sampling(temperature=1.0, max_tokens=12)
    texts = ["a red fox", "an old harbour", "a red fox", "a red fox"]
    own = small_student.generate(texts, [command] * 4, seeds=[3, 3, 3, 4], sampling=sampling)
    assert own[0] == own[2] != own[3]
    one, other = small_student.generate(texts[::2], [command] * 2, seeds=3, sampling=sampling)
    assert one != other, "one seed for all: equal inputs differ"


def test_wording_that_nothing_offends_changes_nothing(generate: Callable[..., list[str]]) -> None:
    plain = generate()
    assert generate(wording=Wording(ban=("xylophone",), max_words=10_000)) == plain
    warm = Sampling(temperature=1.0, top_p=1.0)
    assert generate(warm, Wording(ban=("xylophone",))) == generate(warm)


def test_wording_holds_for_a_student_with_and_without_guidance(generate: Callable[..., list[str]]) -> None:
    for guidance in (1.0, 2.0):
        sampling = Sampling(temperature=0.7, max_tokens=40, guidance=guidance)
        plain = generate(sampling)
        often = sorted({word for text in plain for word in text.split() if word.isalpha()})[:3]
        assert often
        held = generate(sampling, Wording(require=("lighthouse",), ban=tuple(often)))
        for text in held:
            assert contains(text, "lighthouse")
            assert not [word for word in often if contains(text, word)]
        again = generate(sampling, Wording(require=("lighthouse",), ban=tuple(often)), batch_size=1)
        assert again == held


def test_generation_names_what_is_unmet(small_student: Student) -> None:
    wording = Wording(require=("lighthouse keeper",))
    short = replace(small_student.sampling, max_tokens=2)
    (one,) = small_student.generate(["a red fox"], COMMANDS[:1], sampling=short, wording=wording)
    assert one.unmet == ("lighthouse keeper",)
    (one,) = small_student.generate(["a red fox"], COMMANDS[:1], wording=wording)
    assert one.unmet == ()


def test_stream_yields_the_completion_in_whole_words(small_student: Student) -> None:
    sampling = replace(small_student.sampling, max_tokens=32)
    for text, command in zip(INPUTS, COMMANDS, strict=True):
        for wording in (None, Wording(require=("lighthouse",), ban=("the",))):
            (expected,) = small_student.generate([text], [command], seeds=[3], sampling=sampling, wording=wording)
            stream = small_student.stream(text, command, seed=3, sampling=sampling, wording=wording)
            parts = [next(stream)]
            assert not torch.is_inference_mode_enabled()
            parts += list(stream)
            assert "".join(parts) == expected.completion
            assert all(parts)
            if len(expected.completion.split()) > 3:
                assert len(parts) > 3


@given(st.text(alphabet=st.characters(exclude_characters="\ufffd", exclude_categories=("Cs",))), st.integers(0, 400))
def test_what_is_settled_never_changes(text: str, cut: int) -> None:
    sofar = text.encode()[:cut].decode(errors="replace")
    sure = settled(sofar)
    assert text.startswith(sure)
    assert "\ufffd" not in sure


def test_settled_holds_back_the_word_under_way() -> None:
    assert settled("a red fo") == "a red "
    assert settled("a red fox,") == "a red fox,"
    assert settled("don't mid-cent") == "don't "
    assert settled("猫" * 40) == "猫" * 40
    assert settled("a caf\ufffd") == "a "


def test_distance_is_in_shares_of_what_the_student_reaches() -> None:
    command = Command("t", {"relevance": 0.5, "length": 20.0, "mine": 1.0})
    spans = {"relevance": (0.2, 0.7), "length": (5.0, 45.0), "mine": (0.0, 1.0)}
    assert distance(command, {"relevance": 0.6, "length": 10.0}, spans) == pytest.approx(0.1 / 0.5 + 10 / 40)
    assert distance(Command("t"), {"relevance": 0.6}, {}) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "^num must be at least 1, got 0$"),
        ({"best_of": 0}, "^best_of must be at least 1 and at most 10000, got 0$"),
        ({"closest_of": -1}, "^closest_of must be at least 1 and at most 10000, got -1$"),
        ({"best_of": 2, "closest_of": 2}, "take one"),
        ({"best_of": 2}, "picks by relevance"),
        ({"closest_of": 2, "command": Command("search-query")}, "needs a command that can be measured"),
        ({"command": Command("poem")}, "unknown task 'poem'"),
        ({"command": Command("search-query", {"joy": 1.0})}, "unknown attribute 'joy'"),
    ],
)
def test_answer_refuses_what_makes_no_sense(small_student: Student, options: dict[str, Any], message: str) -> None:
    command = options.pop("command", COMMANDS[0])
    with pytest.raises(UsageError, match=message):
        next(answer(small_student, ["a red fox"], command, **options))


def test_guidance_leaves_the_task_and_opens_the_rest(small_student: Student) -> None:
    control = small_student.space.render("text-to-image", {"relevance": 3.0, "length": 4.0})
    assert small_student._unasked([5, 6, *control], control) == [5, 6, *small_student.space.render("text-to-image", {})]
