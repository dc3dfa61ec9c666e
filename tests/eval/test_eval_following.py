from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from eval_fakes import FakeStudent, items

from udrl.eval.completions import Completion
from udrl.eval.following import (
    LEAKAGE_LEVELS,
    LEVELS,
    Bounds,
    leakage_wishes,
    measure,
    sweep_wishes,
)
from udrl.eval.suites import Sweep
from udrl.eval.systems import answer
from udrl.words import count_words

SWEEP = Sweep(inputs=12, seeds=3, leakage_inputs=6)
ITEMS = [
    *items("alpha", [f"alpha subject number {n} with a harbour" for n in range(15)]),
    *items("beta", [f"beta theme {n}" for n in range(15)]),
]


def bounds(student: FakeStudent) -> dict[str, dict[str, Bounds]]:
    return {
        task: {
            name: Bounds(
                student.reachable(task, name),
                (student.space.quantile(task, name, 0.1), student.space.quantile(task, name, 0.9)),
            )
            for name in ("relevance", "length")
        }
        for task in student.tasks
    }


def rows_of(student: FakeStudent, attribute: str) -> list[Completion]:
    sweep = sweep_wishes(student, ITEMS, attribute, SWEEP, block="b", system="student", seed=0)
    leak = leakage_wishes(student, ITEMS, attribute, SWEEP, block="l", system="student", seed=0)
    return [*sweep, *leak]


def measured(achieve: Callable[[Completion], Mapping[str, float]], attribute: str = "length") -> dict[str, Any]:
    """The figures of a student that achieves what ``achieve`` says of each row."""
    student = FakeStudent()
    rows = rows_of(student, attribute)
    found = [achieve(row) for row in rows]
    achieved = {name: np.array([each[name] for each in found]) for name in ("relevance", "length")}
    return measure(rows, achieved, attribute, bounds(student))


def test_following_sweeps_nine_levels_of_each_task_with_the_others_open() -> None:
    student = FakeStudent()
    rows = sweep_wishes(student, ITEMS, "length", SWEEP, block="b", system="student", seed=0)
    assert len(rows) == 2 * 12 * LEVELS * 3
    assert {tuple(row.targets) for row in rows} == {("length",)}
    deciles = student.space.deciles("alpha", "length")
    own = [row for row in rows if row.task == "alpha" and row.sample == 0][:LEVELS]
    assert [row.targets["length"] for row in own] == deciles
    assert len({row.seed for row in rows}) == len(rows)
    other = sweep_wishes(student, ITEMS, "length", SWEEP, block="b", system="student", seed=1)
    assert not {row.seed for row in rows} & {row.seed for row in other}


def test_following_leakage_commands_the_others_at_their_median() -> None:
    student = FakeStudent()
    rows = leakage_wishes(student, ITEMS, "length", SWEEP, block="b", system="student", seed=0)
    assert len(rows) == 2 * 6 * len(LEAKAGE_LEVELS) * 3
    assert {row.targets["relevance"] for row in rows} == {student.space.quantile("alpha", "relevance", 0.5)}


def test_following_of_perfect_obedience_is_perfect() -> None:
    found = measured(lambda row: {"length": row.targets["length"], "relevance": 0.4})
    assert found["spearman"] == found["spearman_within_input"] == pytest.approx(1.0)
    assert found["error"] == 0.0
    assert found["range"] == pytest.approx(1.0)
    assert found["violations"] == 0
    assert found["leakage"] == {"relevance": 0.0}
    for commanded, achieved, low, high in found["curve"]:
        assert commanded == pytest.approx(achieved) == pytest.approx(low) == pytest.approx(high)
    assert set(found["per_task"]) == {"alpha", "beta"}


def test_following_of_a_constant_counts_as_no_obedience() -> None:
    found = measured(lambda row: {"length": 12.0, "relevance": 0.4})
    assert found["spearman"] == found["spearman_within_input"] == 0.0
    assert found["range"] == 0.0
    assert found["violations"] == 0


def test_following_of_chance_is_near_zero_and_noise_is_no_violation() -> None:
    rng = np.random.default_rng(0)
    found = measured(lambda row: {"length": float(rng.uniform(4, 40)), "relevance": 0.4})
    assert abs(found["spearman_within_input"]) < 0.1
    assert found["violations"] <= 2  # sixteen steps, each with a chance of 2.5 %


def test_following_of_the_reverse_is_negative_and_violates_every_step() -> None:
    found = measured(lambda row: {"length": 44.0 - row.targets["length"], "relevance": 0.4})
    assert found["spearman_within_input"] == pytest.approx(-1.0)
    assert found["violations"] == 2 * (LEVELS - 1)
    assert found["range"] == pytest.approx(-1.0)


def test_following_rewards_honestly_averaging_over_seeds_hides_noise() -> None:
    rng = np.random.default_rng(1)
    found = measured(lambda row: {"length": row.targets["length"] + float(rng.normal(0, 12)), "relevance": 0.4})
    assert found["spearman_within_input"] < found["spearman"] < 1


def test_following_error_of_length_counts_tenths_of_the_target() -> None:
    found = measured(lambda row: {"length": 1.2 * row.targets["length"], "relevance": 0.4})
    assert found["error"] == pytest.approx(2.0, rel=0.15)  # the shortest target counts in whole words


def test_following_error_of_a_reward_is_a_share_of_what_is_reachable() -> None:
    found = measured(lambda row: {"relevance": row.targets["relevance"] + 0.063, "length": 9.0}, "relevance")
    assert found["error"] == pytest.approx(0.1)  # reachable from .135 to .765
    assert found["reachable"] == [pytest.approx(0.135), pytest.approx(0.765)]


def test_following_error_leaves_out_targets_that_cannot_be_reached() -> None:
    student = FakeStudent()
    rows = rows_of(student, "length")
    achieved = {
        "length": np.array([min(row.targets["length"], 20.0) for row in rows]),
        "relevance": np.full(len(rows), 0.4),
    }
    narrow = {
        task: {**each, "length": Bounds((4.0, 20.0), each["length"].pool)} for task, each in bounds(student).items()
    }
    found = measure(rows, achieved, "length", narrow)
    assert found["error"] == 0.0
    assert 0.3 < found["range"] < 0.5


def test_following_leakage_is_movement_of_the_other_as_a_share_of_its_range() -> None:
    def achieve(row: Completion) -> dict[str, float]:
        return {"length": row.targets["length"], "relevance": 0.7 - 0.01 * row.targets["length"]}

    found = measured(achieve)
    spread = bounds(FakeStudent())["alpha"]
    lengths, relevances = spread["length"].pool, spread["relevance"].pool
    assert lengths is not None
    assert relevances is not None
    moved = 0.01 * (lengths[1] - lengths[0]) / (relevances[1] - relevances[0])
    assert found["leakage"]["relevance"] == pytest.approx(moved, rel=0.01)


def test_following_without_a_pool_or_leakage_rows_has_no_such_figure() -> None:
    student = FakeStudent()
    rows = sweep_wishes(student, ITEMS, "length", SWEEP, block="b", system="student", seed=0)
    achieved = {
        "length": np.array([row.targets["length"] for row in rows]),
        "relevance": np.full(len(rows), np.nan),
    }
    without = {
        task: {name: Bounds(b.reachable, None) for name, b in each.items()} for task, each in bounds(student).items()
    }
    found = measure(rows, achieved, "length", without)
    assert found["range"] is None
    assert found["leakage"] == {"relevance": None}
    assert found["spearman_within_input"] == pytest.approx(1.0)


@pytest.mark.parametrize(("obedience", "low", "high"), [(1.0, 0.95, 1.0), (0.5, 0.3, 0.7), (0.0, -0.1, 0.1)])
def test_following_of_a_student_falls_with_its_obedience(obedience: float, low: float, high: float) -> None:
    student = FakeStudent(obedience=obedience)
    rows = answer(student, rows_of(student, "length"))
    achieved = {
        "length": np.array([float(count_words(row.completion or "")) for row in rows]),
        "relevance": np.full(len(rows), 0.5),
    }
    found = measure(rows, achieved, "length", bounds(student))
    assert low <= found["spearman_within_input"] <= high
