"""A module of rewards of the user's own, and an episode to reward."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from udrl.data.episode import Episode


def own_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of rewards in it that no other test has imported."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "my_rewards.py").write_text(
        "def brevity(inputs, completions):\n"
        "    return [1 / (1 + len(c.split())) for c in completions]\n"
        "brevity.low, brevity.high, brevity.unit = 0.0, 1.0, 'share'\n"
        "def bare(inputs, completions): return [0.0] * len(inputs)\n"
        "class Shouting:\n"
        "    name, low, high, unit = 'shouting', 0, 2, ''\n"
        "    def __call__(self, inputs, completions): return [float(c.isupper()) for c in completions]\n"
        "ready = Shouting()\n"
        "def length(inputs, completions): return [0.5] * len(inputs)\n"
        "length.low, length.high = 0, 1\n"
        "def upside_down(inputs, completions): return [0.5] * len(inputs)\n"
        "upside_down.low, upside_down.high = 1, 0\n"
        "def unknown(inputs, completions): return [float('nan')] * len(inputs)\n"
        "unknown.low, unknown.high = 0, 1\n"
        "def endless(inputs, completions): return [0.5] * len(inputs)\n"
        "endless.low, endless.high = 0, float('inf')\n"
        "def mean_word(inputs, completions): return [len(c) / len(c.split()) for c in completions]\n"
        "mean_word.low, mean_word.high = 0, 1000\n"
        "def picky(inputs, completions):\n"
        "    if any('seven' in c for c in completions): raise KeyError('seven')\n"
        "    return [0.5] * len(inputs)\n"
        "picky.low, picky.high = 0, 1\n"
        "def single(inputs, completions): return 0.5\n"
        "single.low, single.high = 0, 1\n"
        "class Configured:\n"
        "    low, high = 0, 1\n"
        "    def __init__(self, path): ...\n"
    )
    yield folder
    import sys

    for name in ("my_rewards", "needs_another", "half_written"):
        sys.modules.pop(name, None)


def episode(text: str, completion: str, **changed: Any) -> Episode:
    values: dict[str, Any] = {"episode_id": "e", "task": "t", "input_id": "0" * 16, "teacher": "x", "sampling": "{}"}
    values |= {"horizon": 3, "origin": "teacher", "seed": 0, "split": "train"}
    return Episode(input=text, completion=completion, **{**values, **changed})
