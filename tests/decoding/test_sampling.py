"""The sampler: settings by row, and what each of them does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.decoding.engine import Array
from udrl.decoding.sampling import CANDIDATES, EVERY, Sampler, Sampling, best, choose
from udrl.errors import UsageError

WIDE = Sampling(temperature=1.0, top_p=1.0)


def test_decoding_needs_no_torch() -> None:
    program = (
        "import sys, pkgutil, importlib, udrl.decoding as package\n"
        "for found in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'udrl.decoding.{found.name}')\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'datasets'} & set(sys.modules)), len(sys.modules) > 100)"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["[]", "True"]


def logits_of(rows: int, size: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32) * 3


def by_the_book(logits: Array, sampling: Sampling, uniform: float) -> int:
    """Draw one id in float64, over all ids, one after the other."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    chances = np.exp(scaled - scaled.max())
    chances /= chances.sum()
    kept: list[int] = []
    order = np.argsort(-chances, kind="stable")[: sampling.top_k or CANDIDATES]
    if (sampling.top_k, sampling.top_p, sampling.min_p) == (EVERY, 1, 0):
        order = np.arange(len(logits))
    for rank, id_ in enumerate(order):
        inside = chances[kept].sum() < sampling.top_p and (not sampling.top_k or rank < sampling.top_k)
        if not rank or (inside and chances[id_] >= sampling.min_p * chances[kept[0]]):
            kept.append(int(id_))
    sums = chances[kept].cumsum()
    return kept[int(np.searchsorted(sums, uniform * sums[-1]))]


some_sampling = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.9, 2.0]),
    top_p=st.sampled_from([0.1, 0.77, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 150, 500, EVERY]),
    min_p=st.sampled_from([0.0, 0.013, 0.37]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(some_sampling, min_size=1, max_size=9), st.sampled_from([5, 300, 1200]), st.integers(0, 2**32))
def test_sampler_draws_each_row_by_its_own_settings(samplings: list[Sampling], size: int, seed: int) -> None:
    logits, uniform = logits_of(len(samplings), size, seed), np.random.default_rng(seed + 1).random(len(samplings))
    drawn = Sampler(samplings)(logits, uniform).tolist()
    assert drawn == [by_the_book(*row) for row in zip(logits, samplings, uniform, strict=True)]
    assert drawn == [choose(*row) for row in zip(logits, samplings, uniform, strict=True)]


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}, {"temperature": 1e-40}])
def test_sampler_takes_the_likeliest_where_nothing_else_is_left(narrow: dict[str, float]) -> None:
    sampling = replace(WIDE, **narrow)  # type: ignore[arg-type]
    for seed in range(20):
        [logits] = logits_of(1, 200, seed)
        assert choose(logits, sampling, 0.999) == logits.argmax()


def test_sampler_keeps_as_many_as_top_k_says() -> None:
    [logits] = logits_of(1, 200, 0)
    drawn = {choose(logits, replace(WIDE, temperature=9.0, top_k=3), u) for u in np.linspace(0, 0.999, 200).tolist()}
    assert drawn == set(np.argsort(-logits)[:3].tolist())


def test_sampler_leaves_nothing_out_where_it_is_told_so() -> None:
    flat, numbers = np.zeros((1, 5000), dtype=np.float32), np.linspace(0.0001, 0.9999, 500)
    whole = [choose(flat[0], replace(WIDE, top_k=EVERY), u) for u in numbers.tolist()]
    assert whole == [int(u * 5000) for u in numbers]
    half = {choose(flat[0], replace(WIDE, top_k=EVERY, top_p=0.5), u) for u in numbers.tolist()}
    assert len(half) == 500
    assert max(half) < 2502
    assert len({choose(flat[0], WIDE, u) for u in numbers.tolist()}) == CANDIDATES


def test_best_puts_equal_ones_in_the_order_of_their_ids() -> None:
    logits = np.array([[0, 2, 1, 2, 1, 2]], dtype=np.float32)
    assert best(logits, 6).tolist() == [[1, 3, 5, 2, 4, 0]]


@pytest.mark.parametrize("values", [{"top_k": -1}, {"min_p": 1.1}, {"min_p": float("nan")}, {"top_k": 1.5}])
def test_sampling_refuses_what_is_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(values))} must be"):
        replace(Sampling(), **values)  # type: ignore[arg-type]
