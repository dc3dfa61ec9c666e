"""A training that is interrupted after its last step: while it writes, and between publishing and recording."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tiny_students import comparable

from udrl.commands import CommandSpace
from udrl.data.episodes import read_episodes
from udrl.data.run import RECORD, Run
from udrl.errors import StudentError
from udrl.student.network import StudentModel
from udrl.training import loop
from udrl.training.checkpoint import STATE, is_trained
from udrl.training.render import render
from udrl.training.train import train


class Killed(BaseException):
    """Stands for SIGKILL: nothing that follows is done."""


def trained(run: Path, **more: Any) -> dict[str, torch.Tensor]:
    train(run, student="gpt2-mini", steps=2, batch_size=4, vocab_size=400, calibration_inputs=0, signs_inputs=0, **more)
    return weights_of(run)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(other[name], tensor) for name, tensor in one.items())


def killed_before_it_is_recorded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Run, stage: str, **facts: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", killed)
        with pytest.raises(Killed):
            trained(run)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every loss that is computed in training."""
    steps: list[int] = []
    losses = StudentModel.losses
    monkeypatch.setattr(StudentModel, "losses", lambda self, *a, **k: steps.append(1) or losses(self, *a, **k))
    return steps


@pytest.mark.parametrize("moment", ["record", "done"])
def test_a_student_trained_on_from_itself_is_not_trained_on_twice(
    run: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Once it is published, the run's student is another, and the call's own origin is gone."""
    origin = trained(run)
    shutil.copy(run / "student" / "model.safetensors", run / "origin")
    called = {"steps": 2, "batch_size": 4, "calibration_inputs": 1, "signs_inputs": 0, "seed": 3}

    def killed(self: Run, *_: Any, **__: Any) -> None:
        if (run / "student" / RECORD).exists():  # not as the call ends what was before it
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, moment, killed)
        with pytest.raises(Killed):
            train(run, start_from=run, **called)
    once = weights_of(run)
    assert not same(once, origin)
    steps = counted(monkeypatch)
    report = train(run, start_from=run, **called)
    assert steps == []
    assert same(weights_of(run), once)
    facts = Run(run).facts().train
    assert (report.steps, report.folder, facts.seed) == (2, run / "student", 3)
    assert facts.origin is not None
    assert facts.origin.weights == hashlib.sha256((run / "origin").read_bytes()).hexdigest()[:16]
    assert not {path.name for path in (run / "student").iterdir()} & {"fingerprint", RECORD, STATE}

    train(run, start_from=run, **called)  # asked for again once it has ended, it is trained on again
    assert len(steps) >= 2
    assert not same(weights_of(run), once)


@pytest.mark.parametrize("differing", [{"seed": 4}, {"restart": True}])
def test_another_training_does_not_take_the_report_of_one_that_was_killed(
    run: Path, monkeypatch: pytest.MonkeyPatch, differing: dict[str, Any]
) -> None:
    killed_before_it_is_recorded(run, monkeypatch)
    steps = counted(monkeypatch)
    trained(run, **differing)
    assert len(steps) >= 2
    assert Run(run).facts().train.seed == differing.get("seed", 0)


@pytest.mark.parametrize("moment", ["record", "done"])
def test_who_never_repeats_a_training_ends_the_one_that_was_killed(
    run: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Rounds and studies look whether there is a student, and copy it: what a kill left must not go with it."""
    assert not is_trained(Run(run))

    def killed(*_: Any, **__: Any) -> None:
        if (run / "student" / RECORD).exists():  # not as the call ends what was before it
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, moment, killed)
        with pytest.raises(Killed):
            trained(run)
    assert (run / "student" / RECORD).exists()
    assert is_trained(Run(run))
    assert Run(run).facts().train.steps == 2
    assert not {path.name for path in (run / "student").iterdir()} & {"fingerprint", RECORD, STATE}


def test_what_was_published_is_recorded_by_whoever_writes_next(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_before_it_is_recorded(run, monkeypatch)
    assert Run(run).facts().train.steps == 60  # of the student that was copied with the run
    with Run(run).writing():
        assert Run(run).facts().train.steps == 2
    steps = counted(monkeypatch)
    trained(run)
    assert steps == []


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "student", ignore_errors=True)
    return tmp_path / "run"


def test_interrupted_after_the_last_step_nothing_is_lost_or_trained_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(run)
    shutil.rmtree(run / "student")

    def torn(student: StudentModel, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"\0")
        (folder / "config.json").write_text("")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("udrl.student.network.save_model", torn)
        with pytest.raises(Killed):
            trained(run)
    assert not (run / "student").exists()

    steps = counted(monkeypatch)
    killed_before_it_is_recorded(run, monkeypatch)
    again = trained(run)
    assert steps == []  # both continued behind the last step
    assert Run(run).facts().train.steps == 2
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    left = {path.name for path in (run / "student").iterdir()}
    assert not left & {"fingerprint", "training_state.pt", "best.pt"}
    assert not (run / ".student.partial").exists()


def interrupted(run: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Leave a training that was killed behind its first saved step."""
    saved = loop.save_state

    def killed(file: Path, state: dict[str, Any]) -> None:
        saved(file, state)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", killed)
        with pytest.raises(Killed):
            trained(run, save_every=1, **more)


def test_what_only_costs_memory_or_time_may_change_in_between(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(run, precision="fp32")
    shutil.rmtree(run / "student")
    interrupted(run, monkeypatch, precision="fp32")
    before = (run / ".student.partial" / "tokenizer.json").stat().st_mtime_ns
    again = trained(run, save_every=7, micro_batch=2, gradient_checkpointing=True, precision="fp32")
    lines = map(json.loads, (run / "student" / "training.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == [1, 2], "one step was left"
    assert (run / "student" / "tokenizer.json").stat().st_mtime_ns == before, "a kill can tear nothing that was whole"
    for name, tensor in comparable(whole).items():
        assert (comparable(again)[name] - tensor).abs().mean() < 1e-5, "but for rounding"


def test_an_interrupted_training_is_not_forgotten_unless_that_is_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(run, monkeypatch)
    state = (run / ".student.partial" / "training_state.pt").read_bytes()
    with pytest.raises(StudentError, match=r"interrupted, with other options .*--restart"):
        trained(run, seed=1)
    assert (run / ".student.partial" / "training_state.pt").read_bytes() == state
    trained(run, seed=1, restart=True)
    assert Run(run).facts().train.seed == 1


def test_validation_inputs_of_a_task_that_is_not_trained_are_left_out(run: Path) -> None:
    train_file = run / "episodes" / "train.parquet"
    table = pq.read_table(train_file)
    pq.write_table(table.filter(pc.equal(table["task"], "search-query")), train_file)
    train(run, student="gpt2-mini", steps=1, batch_size=4, vocab_size=400, calibration_inputs=1, signs_inputs=1)
    assert CommandSpace.load(run / "student").tasks == ("search-query",)
    with pytest.warns(UserWarning, match="does not know text-to-image"):
        render(run, output=run / "rows.jsonl", splits=("validation",))


def test_completions_that_the_student_cannot_read_are_told(run: Path) -> None:
    train_file = run / "episodes" / "train.parquet"
    table = pq.read_table(train_file)
    texts = table["completion"].to_pylist()
    texts[0] = "endless prose " * 600
    place = table.column_names.index("completion")
    pq.write_table(table.set_column(place, table.schema.field("completion"), [texts]), train_file)
    with pytest.warns(UserWarning, match=r"the completions of 1 of .* longer than the 512 tokens"):
        report = train(run, student="gpt2-mini", steps=1, batch_size=4, vocab_size=400, calibration_inputs=0)
    assert report.episodes == len(read_episodes(run / "episodes")) - 1
