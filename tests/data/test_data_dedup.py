"""Exact and near duplicates."""

from __future__ import annotations

import random
import time

import pytest
from deduplication import deduplicate
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.data import dedup
from udrl.data.dedup import Deduplicator

FOX = "a red fox asleep under an old apple tree at dawn, soft morning light over the garden"


def test_dedup_drops_exact_duplicates_of_the_normalised_text() -> None:
    result = deduplicate(["A red fox", "a  red fox ", "a blue jay"])
    assert (result.kept, result.exact, result.near) == ([0, 2], 1, 0)


def test_dedup_drops_near_duplicates_and_keeps_the_first() -> None:
    near = FOX.replace("over the garden", "over a garden") + "!"
    result = deduplicate([FOX, "something else entirely", near, FOX.upper()])
    assert (result.kept, result.exact, result.near) == ([0, 1], 1, 1)


def test_dedup_keeps_what_shares_only_a_template() -> None:
    animals = ("fox", "badger", "flamingo", "tortoise", "salamander")
    texts = [f"a drawing of a {animal} in the style of a woodcut" for animal in animals]
    assert len(deduplicate(texts).kept) == len(animals)


def test_dedup_threshold_decides() -> None:
    texts = [FOX, FOX.replace("over the garden", "over a garden")]
    assert len(deduplicate(texts, threshold=0.8).kept) == 1
    assert len(deduplicate(texts, threshold=0.95).kept) == 2


@pytest.mark.parametrize("text", ["", " ", "!", "🎨", "東京", "a", "\ud800"])
def test_dedup_takes_any_text(text: str) -> None:
    assert deduplicate([text, text]).kept == [0]


def test_dedup_tells_texts_without_words_apart() -> None:
    assert len(deduplicate(["🎨🎨🎨🎨", "🦊🦊🦊🦊"]).kept) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([FOX, FOX + " again", "a cat", "A CAT", "a hat", "東京の夜"]), max_size=12))
def test_dedup_in_steps_equals_at_once(texts: list[str]) -> None:
    seen = Deduplicator()
    kept = [number for number, text in enumerate(texts) if seen.add(text) == "new"]
    result = deduplicate(texts)
    assert result.kept == kept
    assert len(kept) + result.exact + result.near == len(texts)
    assert deduplicate([texts[number] for number in kept]).kept == list(range(len(kept)))


def _shingles(text: str) -> set[str]:
    text = f" {text} "
    return {text[i : i + 4] for i in range(len(text) - 3)}


def test_dedup_finds_nearly_every_near_duplicate_and_nothing_else() -> None:
    rng = random.Random(0)
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "tu") for b in ("rin", "sot", "vel", "pax", "dum")]
    originals = [" ".join(rng.choices(words, k=20)) for _ in range(300)]
    missed = found = 0
    for original in originals:
        changed = original.split()
        changed[rng.randrange(20)] = "zzyzx"
        variant = " ".join(changed)
        a, b = _shingles(original), _shingles(variant)
        expected = len(a & b) / len(a | b) >= 0.8
        near = deduplicate([original, variant]).near == 1
        assert expected or not near, "only what reaches the threshold may be dropped"
        found += near
        missed += expected and not near
    assert found > 100
    assert missed <= 0.02 * found


def test_dedup_is_fast() -> None:
    rng = random.Random(1)
    words = [f"w{number}" for number in range(3000)]
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(4000)]
    started = time.process_time()
    assert len(deduplicate(texts).kept) == 4000
    assert time.process_time() - started < 8, "about 0.2 ms a text; ten times that would stall synthesis"


@pytest.mark.parametrize(
    ("first", "second"),
    [("10", "12"), ("0.5", "5"), ("-3", "3"), ("1,000", "1.000"), ("50%", "50"), ("१०", "१२"), ("1/2", "1/3")],
)
def test_dedup_takes_texts_whose_numbers_differ_for_different_ones(first: str, second: str) -> None:
    text = "A shop sells pencils for {} cents each and large rulers for three cents each: what do two of each cost?"
    assert deduplicate([text.format(first), text.format(second)]).near == 0
    reworded = text.replace("what do", "What would")
    assert deduplicate([text.format(first), reworded.format(first)]).near == 1


def templated(count: int) -> list[str]:
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("ala", "evo", "iku", "ora", "umi")]

    def name() -> str:
        return "".join(rng.sample(syllables, 3))

    template = "Write a short and friendly product description for our online shop. The product is called {} {}."
    return [template.format(name(), name()) for _ in range(count)]


def test_dedup_compares_each_of_many_templated_texts_with_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = met = 0
    plain, nearest = dedup._jaccard, Deduplicator._nearest

    def counting(a: dedup.Shingles, b: dedup.Shingles) -> float:
        nonlocal compared
        compared += 1
        return plain(a, b)

    def meeting(self: Deduplicator, minima: dedup.Shingles, numbers: set[int]) -> list[int]:
        nonlocal met
        met = max(met, len(numbers))
        return nearest(self, minima, numbers)

    monkeypatch.setattr(dedup, "_jaccard", counting)
    monkeypatch.setattr(Deduplicator, "_nearest", meeting)
    texts = templated(3000)
    seen = Deduplicator()
    assert [seen.add(text) for text in texts].count("new") > 2900
    assert compared <= 4 * len(texts)
    assert met <= 16 * 5 * 8
    again = [seen.add(text.replace("short and friendly", "short, friendly")) for text in texts[::10]]
    assert again.count("near") >= 0.95 * len(again), "a reworded text is found among thousands of its template"
