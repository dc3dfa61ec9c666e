"""A training that is interrupted after its last step: while it writes, and between publishing and recording."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from udrl.data.run import Run
from udrl.student.model import StudentModel
from udrl.student.training import train


class Killed(BaseException):
    """Stands for SIGKILL: nothing that follows is done."""


def trained(run: Path, **more: Any) -> dict[str, torch.Tensor]:
    train(run, student="gpt2-mini", steps=2, batch_size=4, vocab_size=400, calibration_inputs=0, signs_inputs=0, **more)
    return load_file(run / "student" / "model.safetensors")


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
        patch.setattr("udrl.student.model.save_model", torn)
        with pytest.raises(Killed):
            trained(run)
    assert not (run / "student").exists()

    steps = counted(monkeypatch)
    killed_before_it_is_recorded(run, monkeypatch)
    again = trained(run)
    assert steps == []  # both continued behind the last step
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    left = {path.name for path in (run / "student").iterdir()}
    assert not left & {"fingerprint", "training_state.pt", "best.pt"}
    assert not (run / ".student.partial").exists()


def test_restart_forgets_what_was_published_but_not_recorded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_before_it_is_recorded(run, monkeypatch)
    steps = counted(monkeypatch)
    trained(run, restart=True)
    assert len(steps) >= 2
