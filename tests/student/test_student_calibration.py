"""Calibration: the inverse of achieved against commanded, rewards given length."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import udrl
from udrl.commands import LENGTH, Attribute, Command, CommandSpace
from udrl.errors import RewardError, StudentError, UsageError
from udrl.rewards import computable
from udrl.student.calibration import FILE, Calibration, Curve
from udrl.student.student import SAMPLING, Generation, load_student
from udrl.training.calibrate import recalibrate
from udrl.training.signs import signs_of
from udrl.training.sweep import calibrate


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1)), min_size=1, max_size=80), st.floats(-1, 2))
def test_calibration_curve_is_monotone_and_its_inverse_stays_inside(
    samples: list[tuple[int, float]], target: float
) -> None:
    curve = Curve.fit([float(p) for p, _ in samples], [v for _, v in samples], length=10)
    assert all(a <= b for a, b in zip(curve.achieved, curve.achieved[1:], strict=False))
    position = curve.position(target)
    assert curve.positions[0] - 1e-6 <= position <= curve.positions[-1] + 1e-6


def test_calibration_asks_for_what_achieves_the_target() -> None:
    positions = np.repeat(np.arange(10.0), 20)
    achieved = 0.2 + 0.05 * positions  # commands 0..9 achieve 0.2..0.65
    curve = Curve.fit(positions.tolist(), achieved.tolist(), length=10)
    assert curve.reachable == pytest.approx((0.2, 0.65))
    for target in (0.2, 0.33, 0.5, 0.65):
        assert 0.2 + 0.05 * curve.position(target) == pytest.approx(target, abs=1e-6)
    assert curve.position(0.99) == pytest.approx(9.0, abs=1e-6)
    assert curve.position(0.0) == pytest.approx(0.0, abs=1e-6)


def test_calibration_flat_stretch_gives_its_middle() -> None:
    curve = Curve((0.0, 1.0, 2.0, 3.0), (0.1, 0.5, 0.5, 0.9), (0.1, 0.5, 0.5, 0.9), 10)
    assert curve.position(0.5) == pytest.approx(1.5, abs=1e-6)


class Mechanical:
    """A student whose completion has as many words as its length position says, fewer of them the input's the lower
    its relevance position: the truth is known, so calibration can be checked against it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        values = {"t": {"relevance": rng.random(1000).tolist(), LENGTH: rng.integers(2, 30, 1000).tolist()}}
        attributes = (Attribute("relevance", 0, 1), Attribute(LENGTH, 1, 1000, "words"))
        self.space = CommandSpace.fit(100, attributes, values)
        self.tasks, self.attributes, self.sampling = ("t",), ("relevance", LENGTH), SAMPLING

    def generate_ids(self, inputs: Sequence[str], controls: Sequence[Sequence[int]], **_: object) -> list[Generation]:
        made = []
        for control in controls:
            levels = {}
            for name in self.attributes:
                first = self.space.level_id(name, 0.0)
                token = control[1 + self.attributes.index(name)]
                levels[name] = 4.5 if token < first else (token - first) / 8
            words = round(5 + 2 * levels[LENGTH])
            good = round(words * levels["relevance"] / 9)
            made.append(Generation(" ".join(["good"] * good + ["bad"] * (words - good)), "stop", words))
        return made


def test_calibration_sweep_finds_the_truth_of_a_mechanical_student() -> None:
    def share(_: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [c.split().count("good") / len(c.split()) for c in completions]

    student = Mechanical()
    made = calibrate(student, {"t": ["a", "b"]}, {"relevance": share})  # type: ignore[arg-type]
    length = made.curve("t", LENGTH)
    assert length is not None
    assert length.reachable == (5, 23)
    assert length.position(15) == pytest.approx(5, abs=0.3)
    free, short = made.curve("t", "relevance"), made.curve("t", "relevance", 5)
    assert free is not None
    assert free.reachable == (0, 1)
    assert short is not None
    assert short.position(0.5) == pytest.approx(4.5, abs=1.0)
    assert made.curve("t", "clicks") is None
    assert made.curve("poem", "relevance") is None


def test_calibration_between_measured_lengths_interpolates() -> None:
    def flat(value: float, length: float) -> Curve:
        return Curve((0.0, 9.0), (0.0, value), (0.0, value), length, 0.0 if length < 20 else 9.0)

    open_curve = Curve((0.0, 9.0), (0.0, 1.0), (0.0, 1.0), 15)
    made = Calibration({"t": {"relevance": (open_curve, flat(0.8, 10), flat(0.4, 30))}}, {}, 1)

    def top(length: float | None) -> float:
        curve = made.curve("t", "relevance", length)
        assert curve is not None
        return curve.reachable[1]

    assert [top(n) for n in (None, 5, 10, 20, 30, 99)] == pytest.approx([1.0, 0.8, 0.8, 0.6, 0.4, 0.4])


def test_calibration_file_round_trip_and_refusal(tmp_path: Path) -> None:
    made = Calibration({"t": {LENGTH: (Curve((0.0, 1.0), (2.0, 3.0), (2.5, 2.0), 2.5, None),)}}, {"top_p": 0.9}, 7)
    made.save(tmp_path)
    assert Calibration.load(tmp_path) == made
    data = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**data, "schema": 2}))
    with pytest.raises(StudentError, match="schema 2"):
        Calibration.load(tmp_path)
    assert Calibration.load(tmp_path / "none") is None


def test_recalibrating_a_run_stores_the_sampling_that_was_measured(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    before = Calibration.load(run / "student")
    weights = (run / "student" / "model.safetensors").read_bytes()
    report = recalibrate(run, inputs=1, guidance=1.5, temperature=0.0)
    after = Calibration.load(run / "student")
    assert after is not None
    assert before is not None
    assert after.sampling == {**before.sampling, "guidance": 1.5, "temperature": 0.0}
    assert after.curves != before.curves
    assert after.inputs == report.inputs == 1
    assert load_student(run).sampling.guidance == 1.5
    assert (run / "student" / "model.safetensors").read_bytes() == weights
    task, name = "text-to-image", "relevance"
    assert report.reachable[task][name] == load_student(run).reachable(task, name)


def test_recalibrating_without_validation_episodes_keeps_the_calibration(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    validation = run / "episodes" / "validation.parquet"
    pq.write_table(pq.read_table(validation).slice(0, 0), validation)
    before = (run / "student" / FILE).read_bytes()
    with pytest.raises(StudentError, match="no validation episodes"):
        recalibrate(run)
    assert (run / "student" / FILE).read_bytes() == before


def test_recalibrating_refuses_guidance_that_the_student_never_learned(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    facts = json.loads((run / "run.json").read_text())
    facts["stages"]["train"]["options"]["open_all"] = 0
    (run / "run.json").write_text(json.dumps(facts))
    before = (run / "student" / FILE).read_bytes()
    with pytest.raises(UsageError, match="without command dropout"):
        recalibrate(run, inputs=1, guidance=1.5)
    assert (run / "student" / FILE).read_bytes() == before


def test_a_reward_that_fails_ends_no_training_and_spoils_no_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = Mechanical()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "never_a_number.py").write_text(
        "def relevance(inputs, completions):\n    return [float('nan')] * len(inputs)\n\n"
        "relevance.low, relevance.high = 0, 1\n"
    )
    rewards = computable(["relevance"], sources={"relevance": "never_a_number:relevance"})
    with pytest.raises(RewardError, match=r"'relevance' returned nan .*outside its declared range"):
        calibrate(student, {"t": ["a b c"]}, rewards)  # type: ignore[arg-type]
    measure = signs_of(student, {"t": ["a b c"]}, rewards, seed=0)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="no signs of obedience this time: reward 'relevance'"):
        assert measure() == {}


def test_calibrating_takes_less_at_once_where_the_memory_does_not_suffice(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def short(*given: Any, batch_size: int, **more: Any) -> Calibration:
        sizes.append(batch_size)
        if batch_size > 64:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
        return calibrate(*given, batch_size=batch_size, **more)

    monkeypatch.setattr("udrl.training.calibrate.calibrate", short)
    shutil.copytree(small_run, tmp_path / "run")
    assert recalibrate(tmp_path / "run", inputs=1).inputs == 1
    assert sizes == [256, 64]


def test_signs_take_less_at_once_where_the_memory_does_not_suffice() -> None:
    student, sizes = Mechanical(), []
    write = student.generate_ids

    def short(*given: Any, batch_size: int, **more: Any) -> Any:
        sizes.append(batch_size)
        if batch_size > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(*given, **more)

    student.generate_ids = short  # type: ignore[method-assign]
    found = signs_of(student, {"t": ["a b c"]}, {"relevance": lambda texts, _: [0.5] * len(texts)}, seed=0)()  # type: ignore[arg-type]
    assert found["completions"] > 0
    assert sizes == [256, 64]


def test_targets_beyond_the_training_are_told_where_nothing_was_calibrated(small_run: Path) -> None:
    student = udrl.load(small_run, device="cpu")
    student.calibration = None
    wanted = Command("search-query", {"length": 900.0})
    with pytest.warns(UserWarning, match=r"length=900 is beyond what this student was trained on in task 'search-quer"):
        assert student.positions(wanted)["length"] == student.space.scales["search-query"][LENGTH].positions[-1]


def test_auto_asks_for_the_highest_that_is_reached_at_that_length(small_run: Path) -> None:
    student = udrl.load(small_run, device="cpu")
    (low, high), open_length = (
        student.reachable("search-query", "relevance", length=6),
        student.reachable("search-query", "relevance"),
    )
    assert student.commanded("search-query", {"relevance": "auto"}).targets == {"relevance": open_length[1]}
    assert student.commanded("search-query", {"relevance": "auto", "length": 6.0}).targets == {
        "relevance": high,
        "length": 6.0,
    }
    assert low <= high
    with pytest.raises(UsageError, match="no best length: give a number of words"):
        student.commanded("search-query", {"length": "auto"})
    with pytest.raises(UsageError, match="did you mean relevance"):
        student.commanded("search-query", {"relevnce": "auto"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "calibration.json",
            b'{"schema": 1, "curves": {',
            "calibration.json is damaged .*: delete it and run udrl cal",
        ),
        (
            "calibration.json",
            b'{"schema": 1, "curves": {"t": {"length": [{"positions": [0, 1], "achieved": [3], "raw": [3, 4], '
            b'"length": 3, "length_position": null}]}}, "sampling": {}, "inputs": 1}',
            r"calibration.json is damaged \(a curve's values are not as many as its positions\): delete it",
        ),
        ("calibration.json", b'{"schema": 1}', "calibration.json is damaged .*: delete it and run udrl calibrate"),
        ("command_space.json", b'{"schema": 1, "fine": 8}', "command_space.json is damaged .*: restore it or train"),
        ("model.safetensors", b"half", r"cannot be loaded as a student: it is damaged \(.+\): train again"),
    ],
)
def test_a_damaged_student_is_one_clear_error(
    small_run: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    shutil.copytree(small_run / "student", tmp_path / "student")
    (tmp_path / "student" / name).write_bytes(content)
    with pytest.raises(StudentError, match=message):
        udrl.load(tmp_path / "student", device="cpu")
