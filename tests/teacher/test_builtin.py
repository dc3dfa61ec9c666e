"""The built-in teacher: phrases, writing, inventing. The relevance it reaches is measured with the real encoder."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from udrl.data.tasks import Task, load_tasks, seeds
from udrl.resources import folder
from udrl.teacher.backends.builtin import BuiltinTeacher, content_phrases, invent
from udrl.teacher.backends.builtin.phrases import MAX_PASSAGE_WORDS, content_words, passages, template_of
from udrl.teacher.protocol import Request
from udrl.words import count_words, words

TASKS = load_tasks()


def held_out(task: Task, suite: str = "relevance") -> list[str]:
    path = folder("eval") / "inputs" / suite / f"{task.name}.jsonl"
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def write_all(task: Task, texts: list[str], sampling: dict[str, object]) -> list[str]:
    requests = [Request(str(i), task.name, "", t, (), sampling, i, 0) for i, t in enumerate(texts)]
    return [str(r.completion) for r in BuiltinTeacher(TASKS).generate(requests)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red fox sleeping in the snow", ["a red fox sleeping", "the snow"]),
        ("How do I clean my cast iron skillet?", ["clean", "my cast iron skillet"]),
        ("two cups of tea on a zorvath table", ["two cups of tea", "a zorvath table"]),
        ("make the sky look stormy", ["the sky look stormy"]),
        ("what is it?", ["what is it"]),
        ("???", ["???"]),
        ("狐狸在雪中", ["狐狸", "在雪中"]),
    ],
)
def test_builtin_finds_the_content_phrases(text: str, expected: list[str]) -> None:
    assert content_phrases(text) == expected


@given(st.text(min_size=1, max_size=200).filter(lambda t: t.strip() != ""))
@settings(max_examples=200, deadline=None)
def test_builtin_every_input_that_is_not_blank_has_a_phrase(text: str) -> None:
    assert content_phrases(text)


@given(st.lists(st.sampled_from("the a red fox of in , . ships old and glass tower".split()), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_builtin_phrases_cover_every_content_word(tokens: list[str]) -> None:
    text = " ".join(tokens)
    covered = {w for phrase in content_phrases(text) for w in words(phrase)}
    assert set(content_words(text)) <= covered
    pieces, slots = template_of(text)
    assert " ".join(pieces) == text
    assert all(slot < len(pieces) for slot in slots)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red fox sleeping in the snow", ["a red fox sleeping", "the snow"]),
        ("How do I clean my cast iron skillet?", ["clean my cast iron skillet"]),
        ("flyer for piano removals, we carry anything", ["flyer for piano removals", "carry anything"]),
        ("what is it?", ["what is it"]),
        ("???", ["???"]),
    ],
)
def test_builtin_passages_read_as_the_input_does(text: str, expected: list[str]) -> None:
    assert passages(text) == expected


@given(st.lists(st.sampled_from("the a red fox of in , . ships old and glass tower".split()), min_size=1, max_size=30))
@example("the the the the the the red of the the the the the the the red".split())
@example("the the the the the red of the the the the the red of the the the the the red".split())
@example(["fox", *["the"] * 5, "red", "of", *["glass"] * 8])
@settings(max_examples=200, deadline=None)
def test_builtin_passages_are_runs_of_the_input_and_hold_its_content(tokens: list[str]) -> None:
    text = " ".join(tokens)
    found = passages(text)
    assume(content_words(text))
    assert all(passage in text and count_words(passage) <= MAX_PASSAGE_WORDS for passage in found)
    assert set(content_words(text)) <= {w for passage in found for w in words(passage)}


def test_builtin_fidelity_is_the_share_of_words_that_is_kept() -> None:
    task = TASKS[0]
    text = "a red fox, an old lighthouse, seven paper ships, the frozen canal"
    for fidelity in (0.2, 0.5, 0.8):
        sampling = {"fidelity": fidelity, "words": task.max_words}
        kept = [len(set(words(c)) & set(content_words(text))) for c in write_all(task, [text] * 200, sampling)]
        assert abs(sum(kept) / len(kept) / len(content_words(text)) - fidelity) < 0.12


def test_builtin_very_long_input_is_written_within_the_bounds() -> None:
    task = TASKS[0]
    (completion,) = write_all(task, ["crimson lighthouse keeper " * 30_000], {"fidelity": 1.0, "words": None})
    assert count_words(completion) <= task.max_words + 5


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_builtin_writes_the_length_that_was_asked_for(task: Task) -> None:
    texts = held_out(task)
    for aim in (task.min_words, (task.min_words + task.max_words) // 2, task.max_words):
        lengths = [count_words(c) for c in write_all(task, texts, {"fidelity": 0.5, "words": aim})]
        assert abs(sum(lengths) / len(lengths) - aim) <= max(2.0, 0.1 * aim)


@pytest.mark.parametrize("suite", ["relevance", "foreign"])
def test_builtin_at_full_fidelity_is_relevant_without_copying(suite: str) -> None:
    from udrl.encoder import load_encoder
    from udrl.metrics import copy_rate

    encoder = load_encoder(precision="fp32")
    relevance, copied = [], []
    for task in TASKS:
        texts = held_out(task, suite)[:10]
        completions = write_all(task, texts, {"fidelity": 1.0, "words": None})
        a, b = encoder.encode(texts), encoder.encode(completions)
        relevance += (a * b).sum(1).clip(0, 1).tolist()
        copied += [copy_rate(x, y) for x, y in zip(texts, completions, strict=True)]
    assert sum(relevance) / len(relevance) >= 0.55
    assert sum(copied) / len(copied) <= 0.6


def test_builtin_returns_vary_within_an_input() -> None:
    from udrl.encoder import load_encoder

    encoder = load_encoder(precision="fp32")
    task = TASKS[0]
    texts = held_out(task)[:8]
    teacher = BuiltinTeacher(TASKS)
    means = []
    for index in range(4):
        samplings = [teacher.sampling(index, seed, task.min_words, task.max_words) for seed in range(len(texts))]
        completions = [write_all(task, [t], dict(s))[0] for t, s in zip(texts, samplings, strict=True)]
        means.append(float((encoder.encode(texts) * encoder.encode(completions)).sum(1).mean()))
    assert means == sorted(means, reverse=True)
    assert means[0] - means[3] > 0.25


def test_builtin_same_seed_same_words_other_seed_other_words() -> None:
    task = TASKS[0]
    texts = held_out(task)[:10]
    assert write_all(task, texts, {"fidelity": 0.5, "words": 20}) == write_all(
        task, texts, {"fidelity": 0.5, "words": 20}
    )
    one = list(itertools.islice(invent(task, seeds=seeds(task), seed=1), 50))
    assert one == list(itertools.islice(invent(task, seeds=seeds(task), seed=1), 50))
    assert one != list(itertools.islice(invent(task, seeds=seeds(task), seed=2), 50))


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_builtin_invents_inputs_that_are_new_in_wording_and_words(task: Task) -> None:
    texts = list(itertools.islice(invent(task, seeds=seeds(task), seed=0), 2000))
    assert len(set(texts)) > 1950
    assert not set(texts) & set(seeds(task))
    known = {w.casefold() for t in seeds(task) for w in words(t)}
    rows = [[w.casefold() in known for w in content_words(t)] for t in texts]
    unseen = sum(not k for row in rows for k in row) / sum(map(len, rows))
    assert unseen > 0.4
    assert 3 <= sum(map(count_words, texts)) / len(texts) <= 25
    assert random.Random(0).choice(texts).strip()
