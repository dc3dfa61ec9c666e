"""What every run of the suite has in common: the same examples, the same draws, whatever ran before."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies


def examples() -> list[tuple[int, str]]:
    tried: list[tuple[int, str]] = []

    @given(strategies.integers(), strategies.text())
    def test(number: int, text: str) -> None:
        tried.append((number, text))

    test()
    return tried


def test_property_tests_try_the_same_examples_whatever_was_imported_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = examples()
    numbers = ", ".join(str(100_003 + number) for number in range(300))
    (tmp_path / "full_of_constants.py").write_text(f"NUMBERS = [{numbers}]\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("full_of_constants")
    try:
        assert examples() == before
    finally:
        del sys.modules["full_of_constants"]
    assert len(before) == 100


@pytest.mark.parametrize("time", ["first", "second"])
def test_generators_begin_every_test_in_the_same_state(time: str) -> None:
    assert (random.random(), float(np.random.random())) == (0.8444218515250481, 0.5488135039273248)  # noqa: NPY002
