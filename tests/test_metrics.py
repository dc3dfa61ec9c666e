"""Metrics: against hand-counted examples, plain implementations and known statistics."""

from __future__ import annotations

import random
import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ratios import ratio_interval
from scipy.stats import spearmanr

from udrl import bootstrap, metrics

WORDS = st.lists(st.sampled_from("abcde"), max_size=30)


def plain_subsequence(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_copy_rate_is_the_subsequence_over_the_completions_words() -> None:
    assert metrics.copy_rate("a red fox in the snow", "A red fox, jumping in deep snow!") == 5 / 7
    assert metrics.copy_rate("snow fox", "fox snow") == 1 / 2, "order counts"
    assert metrics.copy_rate("a b", "a b c d e f g h") == 2 / 8, "the completion's length is the divisor"
    assert metrics.copy_rate("same text", "Same — text.") == 1.0
    assert metrics.copy_rate("anything", "") == 0.0
    assert metrics.copy_rate("", "something") == 0.0


@given(WORDS, WORDS)
def test_copy_rate_equals_the_plain_table(a: list[str], b: list[str]) -> None:
    expected = plain_subsequence(a, b) / len(b) if b else 0.0
    assert metrics.copy_rate(" ".join(a), " ".join(b)) == expected


def test_copy_rate_of_long_texts_is_fast() -> None:
    draw = random.Random(0)
    a, b = (" ".join(draw.choices([f"w{i}" for i in range(200)], k=500)) for _ in range(2))
    started = time.process_time()
    for _ in range(20):
        metrics.copy_rate(a, b)
    assert time.process_time() - started < 4, "a table of 500 x 500 cells in Python would take ten times that"


def test_novelty_is_the_share_of_new_four_grams() -> None:
    assert metrics.novelty("one two three four five", "One two three four six") == 1 / 2
    assert metrics.novelty("one two three four", "one two three four") == 0.0
    assert metrics.novelty("one two three four", "nothing of that kind here") == 1.0
    assert metrics.novelty("one two three four", "two three") == 0.0, "a short text is one n-gram"
    assert metrics.novelty("one two three four", "three two") == 1.0
    assert metrics.novelty("one two", "") == 0.0


def test_distinct_n_counts_within_texts() -> None:
    assert metrics.distinct_n(["a b a b", "a b"], 2) == 2 / 4
    assert metrics.distinct_n(["a b", "c d"], 2) == 1.0, "no n-gram reaches across texts"
    assert metrics.distinct_n(["a", ""], 2) == 0.0


@settings(max_examples=30)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_pairwise_distance_equals_the_mean_over_pairs(n: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.mean([1 - a @ b for a, b in combinations(rows, 2)])
    assert metrics.pairwise_distance(rows.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


def test_pairwise_distance_of_fewer_than_two_is_unknown() -> None:
    assert np.isnan(metrics.pairwise_distance(np.ones((1, 3))))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=27))
def test_spearman_within_equals_scipy(points: list[tuple[int, int]]) -> None:
    x, y = zip(*points, strict=True)
    found = metrics.spearman_within(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found == 0.0
    else:
        assert found == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_within_constant_output_and_unknown_points() -> None:
    assert metrics.spearman_within([1, 2, 3], [5, 5, 5]) == 0.0
    assert metrics.spearman_within([1, 2, 3, 4], [1, np.nan, 2, 3]) == pytest.approx(1.0)
    assert metrics.spearman_within([1, 2], [np.nan, np.nan]) == 0.0


def test_mean_interval_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=800)
    found = metrics.mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)
    assert found.lo == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.hi == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_mean_interval_draws_whole_clusters() -> None:
    of_input = np.random.default_rng(2).normal(size=100)
    values, clusters = np.repeat(of_input, 9), np.repeat([f"input {i}" for i in range(100)], 9)
    clustered, naive = metrics.mean_interval(values, clusters), metrics.mean_interval(values)
    once = metrics.mean_interval(of_input)
    assert clustered.hi - clustered.lo == pytest.approx(once.hi - once.lo, rel=0.05)
    assert clustered.hi - clustered.lo == pytest.approx(3 * (naive.hi - naive.lo), rel=0.1)


def test_mean_interval_covers_the_truth_as_often_as_it_says() -> None:
    random_ = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        values = np.repeat(random_.normal(size=60), 3) + random_.normal(size=180)
        found = metrics.mean_interval(values, np.repeat(np.arange(60), 3), resamples=1000)
        covered += found.lo <= 0 <= found.hi
    assert 0.90 <= covered / 300 <= 0.98


def test_mean_interval_weighs_values_not_clusters() -> None:
    assert metrics.mean_interval([0, 0, 0, 1], ["a", "a", "a", "b"]).mean == 0.25


def test_intervals_do_not_depend_on_the_order_of_rows() -> None:
    random_ = np.random.default_rng(4)
    a, b, clusters = random_.random(90), random_.random(90) + 1, np.repeat(np.arange(30), 3)
    order = random_.permutation(90)
    one = ratio_interval(a, b, clusters)
    two = ratio_interval(a[order], b[order], clusters[order])
    assert (one.mean, one.lo, one.hi) == pytest.approx((two.mean, two.lo, two.hi), abs=1e-6)
    assert ratio_interval(a, b, clusters) == one, "the same seed gives the same interval"
    assert ratio_interval(a, b, clusters, seed=1) != one


def test_intervals_are_the_same_where_weights_are_too_many_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).random(200)
    kept = metrics.mean_interval(values, resamples=9000)
    monkeypatch.setattr(bootstrap, "_CACHED_WEIGHTS", 0)
    assert metrics.mean_interval(values, resamples=9000) == kept


def test_ratio_interval_is_paired() -> None:
    random_ = np.random.default_rng(6)
    b = random_.random(300) + 0.2
    assert ratio_interval(b, b) == metrics.Interval(1.0, 1.0, 1.0)
    scaled = ratio_interval(0.9 * b, b)
    assert (scaled.mean, scaled.lo, scaled.hi) == pytest.approx((0.9, 0.9, 0.9), abs=1e-6)
    unpaired = ratio_interval(0.9 * random_.permutation(b), b)
    assert unpaired.hi - unpaired.lo > 0.05


def test_ratio_interval_is_of_means_not_of_ratios() -> None:
    assert ratio_interval([1, 1], [1, 3]).mean == 0.5


def test_intervals_of_twenty_systems_take_seconds() -> None:
    random_ = np.random.default_rng(7)
    clusters = np.repeat(np.arange(1000), 3)
    started = time.process_time()
    for _ in range(20):
        metrics.mean_interval(random_.random(3000), clusters)
    assert time.process_time() - started < 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mean_interval([]), "at least one value"),
        (lambda: metrics.mean_interval([1.0, float("nan")]), "NaN"),
        (lambda: metrics.mean_interval([1.0, 2.0], ["a"]), "one length"),
    ],
)
def test_intervals_refuse_what_has_none(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
