"""The command space: bins, positions, ids, files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udrl.commands import FILE, FINE, Attribute, Command, CommandSpace, Scale
from udrl.errors import StudentError, UsageError

ATTRIBUTES = (Attribute("relevance", 0.0, 1.0), Attribute("length", 1.0, 1000.0, "words"))


def space(base: int = 500) -> CommandSpace:
    rng = np.random.default_rng(0)
    values = {
        task: {"relevance": rng.beta(2, 2, 1000).tolist(), "length": rng.integers(3, 60, 1000).tolist()}
        for task in ("caption", "query")
    }
    return CommandSpace.fit(base, ATTRIBUTES, values)


def test_commands_ids_lie_above_the_tokenizer_and_are_distinct() -> None:
    made = space(base=321)
    ids = {made.task_id(t) for t in made.tasks}
    for attribute in ATTRIBUTES:
        ids.add(made.level_id(attribute.name, None))
        ids |= {made.level_id(attribute.name, k / FINE) for k in range(made.fine_rows)}
    assert ids == set(range(321, 321 + made.size))


def test_commands_mixing_interpolates_neighbouring_bins() -> None:
    made = space()
    low, high, share = made.mixing()
    row = made.level_id("relevance", 3.25) - made.base
    start = len(made.tasks) + 1
    assert (low[row], high[row], share[row]) == (start + 3, start + 4, 0.25)
    assert len(low) == made.size
    assert max(high) < made.base_size


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400))
def test_commands_positions_never_fall_when_values_rise(values: list[float]) -> None:
    scale = Scale.fit(values, min_per_bin=5)
    assert all(a < b for a, b in zip(scale.centres, scale.centres[1:], strict=False))
    places = [scale.position(v) for v in sorted(values)]
    assert all(a <= b for a, b in itertools.pairwise(places))
    assert all(0 <= p <= 9 for p in places)


def test_commands_bins_hold_enough_episodes_and_merge_ties() -> None:
    assert len(Scale.fit(list(range(1000))).centres) == 10
    assert len(Scale.fit(list(range(220))).centres) == 4  # 50 a bin at least
    tied = Scale.fit([0.0] * 600 + list(np.linspace(0.5, 1, 400)))
    assert tied.centres[0] == 0.0
    assert len(tied.centres) == 5
    assert tied.positions[0] == pytest.approx(2.5)  # the middle of the six bins that it stands for


@pytest.mark.parametrize(
    "counts",
    [
        {0.0: 97, 1 / 3: 1, 2 / 3: 1, 1.0: 1},
        {0.0: 1, 1 / 3: 1, 2 / 3: 1, 1.0: 97},
        {0.0: 50, 1.0: 50},
        {0.0: 1, 1.0: 999},
    ],
)
def test_commands_each_of_a_few_values_has_a_row_however_rare(counts: dict[float, int]) -> None:
    values = [value for value, count in counts.items() for _ in range(count)]
    made = CommandSpace.fit(10, (Attribute("format", 0, 1),), {"t": {"format": values}})
    places = made.scales["t"]["format"].positions
    assert places[0] >= 0
    assert places[-1] <= made.bins - 1
    assert all(b - a >= 1 for a, b in itertools.pairwise(places))
    assert len({tuple(made.render("t", made.positions("t", {"format": value}))) for value in counts}) == len(counts)


def test_commands_small_task_uses_the_pooled_bins() -> None:
    rng = np.random.default_rng(1)
    big = {"relevance": rng.random(1000).tolist(), "length": rng.integers(3, 60, 1000).tolist()}
    small = {"relevance": [0.5] * 20, "length": [7] * 20}
    made = CommandSpace.fit(10, ATTRIBUTES, {"big": big, "small": small})
    assert len(made.scales["small"]["relevance"].centres) == 10


def test_commands_unknown_names_and_values_out_of_range_are_wrong_usage() -> None:
    made = space()
    with pytest.raises(UsageError, match="did you mean caption"):
        made.check(Command("captoin"))
    with pytest.raises(UsageError, match="known: length, relevance"):
        made.check(Command("caption", {"novelty": 0.5}))
    for value in (1.5, -0.1, float("nan")):
        with pytest.raises(UsageError, match=r"outside its range \[0, 1\]"):
            made.check(Command("caption", {"relevance": value}))


def test_commands_missing_and_unscored_attributes_stay_open() -> None:
    made = space()
    positions = made.positions("caption", {"relevance": None, "length": 20.0})
    assert set(positions) == {"length"}
    ids = made.render("caption", dict(positions))
    assert ids[1] == made.level_id("relevance", None)
    assert len(ids) == made.prompt_size


def test_commands_file_round_trip_and_refusals(tmp_path: Path) -> None:
    made = space()
    made.save(tmp_path)
    assert CommandSpace.load(tmp_path) == made
    data = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**data, "schema": 99}))
    with pytest.raises(StudentError, match="schema 99"):
        CommandSpace.load(tmp_path)
    for content in ("{half", "[1]", '"text"', "7"):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(StudentError, match="damaged"):
            CommandSpace.load(tmp_path)
    with pytest.raises(StudentError, match="not a student"):
        CommandSpace.load(tmp_path / "nowhere")


def test_commands_attribute_without_any_value_is_refused() -> None:
    with pytest.raises(StudentError, match="score the run"):
        CommandSpace.fit(10, ATTRIBUTES, {"a": {"length": [1.0] * 100}})
