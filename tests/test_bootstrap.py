"""Intervals of many figures at once agree with those of one, and with what is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ratios import ratio_interval

from udrl import bootstrap, metrics


def test_bootstrap_columns_are_what_each_is_alone() -> None:
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(150), 2)
    top, bottom = random.random((300, 5)), random.random((300, 5)) + 1
    found = bootstrap.ratio_intervals(top, bottom, clusters)
    for k in range(5):
        alone = ratio_interval(top[:, k], bottom[:, k], clusters)
        assert (found.mean[k], found.lo[k], found.hi[k]) == pytest.approx((alone.mean, alone.lo, alone.hi), abs=1e-6)


def test_bootstrap_leaves_out_what_is_unknown_column_by_column() -> None:
    random = np.random.default_rng(1)
    values = random.random((400, 3))
    values[5:, 0] = np.nan  # five inputs: resampled among themselves
    values[:40, 1] = np.nan
    values[:, 2] = np.nan
    found = bootstrap.mean_intervals(values)
    assert found.items.tolist() == [5, 360, 0]
    assert found.mean[1] == pytest.approx(np.nanmean(values[:, 1]))
    few = metrics.mean_interval(values[:5, 0])
    assert (found.lo[0], found.hi[0]) == pytest.approx((few.lo, few.hi), abs=1e-6)
    many = metrics.mean_interval(values[40:, 1])
    assert found.hi[1] - found.lo[1] == pytest.approx(many.hi - many.lo, rel=0.1)
    assert np.isnan([found.mean[2], found.lo[2], found.hi[2]]).all()


def test_bootstrap_of_twenty_systems_and_a_thousand_inputs_takes_seconds() -> None:
    random = np.random.default_rng(2)
    relevance = random.random((1000, 20)) + 0.5
    a, b = np.repeat(relevance, 20, axis=1), np.tile(relevance, 20)  # every system beside every other
    started = time.process_time()
    found = bootstrap.ratio_intervals(a, b)
    assert found.mean.shape == (400,)
    assert time.process_time() - started < 10


def outcomes(bonus: float, skill: float, *, inputs: int = 600, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Wins of a system that is better by ``skill`` and whose longer completions are liked by ``bonus`` a word."""
    random = np.random.default_rng(seed)
    longer = random.normal(10, 20, size=inputs)
    chance = 1 / (1 + np.exp(-(skill + bonus * np.tanh(longer / longer.std()))))
    return (random.random(inputs) < chance).astype(float), longer


def test_length_controlled_takes_away_what_length_gave() -> None:
    wins, longer = outcomes(2.0, 0.0)
    found = bootstrap.length_controlled(wins[:, None], longer[:, None])
    assert wins.mean() > 0.6
    assert found.lo[0] < 0.5 < found.hi[0]
    assert 0.05 < found.hi[0] - found.lo[0] < 0.12
    same, gap = outcomes(0.0, 1.0)
    kept = bootstrap.length_controlled(same[:, None], gap[:, None])
    assert kept.mean[0] == pytest.approx(same.mean(), abs=0.02)


def test_length_controlled_is_the_logistic_regression_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    wins, longer = outcomes(1.0, 0.5, inputs=200)
    x = np.tanh(longer / longer.std())
    model = LogisticRegression(C=1e4, tol=1e-10).fit(x[:, None], wins)
    expected = model.predict_proba([[0.0]])[0, 1]
    found = bootstrap.length_controlled(wins[:, None], longer[:, None])
    assert found.mean[0] == pytest.approx(expected, abs=0.003)
    random, drawn = np.random.default_rng(0), []
    for _ in range(120):
        rows = random.integers(0, 200, 200)
        again = LogisticRegression(C=10).fit(x[rows, None], wins[rows])
        drawn.append(again.predict_proba([[0.0]])[0, 1])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.lo[0], found.hi[0]) == pytest.approx((low, high), abs=0.03), "one Newton step is near enough"


def test_length_controlled_at_the_edges() -> None:
    ones = np.ones((50, 1))
    spread = np.linspace(-5, 5, 50)[:, None]
    always = bootstrap.length_controlled(ones, spread)
    assert 0.95 < always.mean[0] < 1
    assert np.isfinite([always.lo[0], always.hi[0]]).all()
    assert np.isnan(bootstrap.length_controlled(ones, spread + 6).mean[0]), "never shorter: nothing is extrapolated"
    half = bootstrap.length_controlled(0.5 * ones, 0 * ones)
    assert half.mean[0] == pytest.approx(0.5)
    nothing = bootstrap.length_controlled(np.full((3, 1), np.nan), np.ones((3, 1)))
    assert np.isnan(nothing.mean[0])


def test_bradley_terry_finds_the_strengths_that_decided_the_matches() -> None:
    random = np.random.default_rng(0)
    strength = np.array([1.0, 0.0, -1.0])
    first = random.integers(0, 3, 6000)
    second = (first + random.integers(1, 3, 6000)) % 3
    won = random.random(6000) < 1 / (1 + np.exp(strength[second] - strength[first]))
    found = bootstrap.bradley_terry(first, second, won.astype(float))
    assert found.mean == pytest.approx(strength, abs=0.1)
    assert (found.lo < strength).all()
    assert (strength < found.hi).all()
    assert (found.hi - found.lo < 0.2).all()
    assert found.items.sum() == 12_000


def test_bradley_terry_of_two_is_their_win_rate_and_stays_finite_where_one_always_wins() -> None:
    first, second = np.zeros(400, dtype=np.int64), np.ones(400, dtype=np.int64)
    points = np.array([1.0] * 300 + [0.0] * 100)
    found = bootstrap.bradley_terry(first, second, points)
    assert found.mean[0] - found.mean[1] == pytest.approx(np.log(3), abs=0.01)
    always = bootstrap.bradley_terry(first, second, np.ones(400))
    assert 3 < always.mean[0] - always.mean[1] < 12
    assert np.isfinite([always.lo, always.hi]).all()
    level = bootstrap.bradley_terry(first, second, np.full(400, 0.5))
    assert level.mean == pytest.approx([0, 0], abs=1e-9)
