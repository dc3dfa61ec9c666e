"""Training in two processes: the student of one process, one writer, one voice, and a failure that ends all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_students
import torch
from tiny_students import CASES, comparable, fit_in

from udrl.errors import StudentError, UsageError
from udrl.training.checkpoint import STATE
from udrl.training.distributed import check_share, own_device
from udrl.training.ranks import Rank

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRAIN = ["train", "--student", "gpt2-mini", "--vocab-size", "400", "--steps", "2", "--batch-size", "4"]
QUICK = """
import sys
import torch
import udrl.training.train as training
from udrl.cli.main import main
from udrl.training.ranks import here
from udrl.student.network import StudentModel
training.calibrate_on = lambda *_, **__: False  # it takes longer than all else
"""


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, one thread a process."""
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process made of every case, and what two made of it: from the start, and from the one's second step."""
    place = tmp_path_factory.mktemp("processes")
    for case in CASES:
        fit_in(place / f"{case} alone", case)
        (place / f"{case} resumed").mkdir()
        shutil.copy(place / f"{case} alone" / "after2.pt", place / f"{case} resumed" / STATE)
    done = start(*LAUNCH, str(tiny_students.__file__), str(place))
    assert done.returncode == 0, done.stderr
    return place


def assert_equal_but_for_rounding(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert found["losses"] == pytest.approx(alone["losses"][-len(found["losses"]) :], rel=1e-5)
    assert [v.loss for v in found["validations"]] == pytest.approx([v.loss for v in alone["validations"]], rel=1e-5)
    mine, theirs = comparable(found["weights"]), comparable(alone["weights"])
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def load(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_student_of_one(folder: Path, case: str) -> None:
    found = load(folder / case / "made.pt")
    assert len(found["losses"]) == 6
    assert_equal_but_for_rounding(found, load(folder / f"{case} alone" / "made.pt"))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_continue_what_one_began(folder: Path, case: str) -> None:
    found = load(folder / f"{case} resumed" / "made.pt")
    assert len(found["losses"]) == 4
    assert_equal_but_for_rounding(found, load(folder / f"{case} alone" / "made.pt"))


@pytest.mark.parametrize("case", CASES)
def test_one_process_continues_what_two_began(folder: Path, case: str, tmp_path: Path) -> None:
    shutil.copy(folder / case / "after2.pt", tmp_path / STATE)
    fit_in(tmp_path, case)
    found = load(tmp_path / "made.pt")
    assert len(found["losses"]) == 4
    assert_equal_but_for_rounding(found, load(folder / case / "made.pt"))


def test_torchrun_train_writes_once_and_says_once(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    script = tmp_path / "quick.py"
    script.write_text(QUICK + "main(sys.argv[1:])\n")
    done = start(
        *LAUNCH, "--", str(script), *TRAIN, "--signs-inputs", "0", "--shard", "--run", str(tmp_path / "run"), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2  # one report
    lines = (tmp_path / "run" / "student" / "training.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if '"loss"' in line] == [1, 2]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["train"]
    assert facts["processes"] == 2
    assert not (tmp_path / "run" / ".student.partial").exists()

    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    assert made.config.n_layer == 4


def test_a_process_that_fails_ends_all_with_its_line(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    script = tmp_path / "second_fails.py"
    fault = "StudentModel.losses = lambda *_, **__: torch.empty(2**60)"  # torch's own failure
    script.write_text(f"{QUICK}if here().number == 1:\n    {fault}\nmain(sys.argv[1:])\n")
    done = start(*LAUNCH, "--", str(script), *TRAIN, "--run", str(tmp_path / "run"))
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "out of memory at step 0, with 2 sequences" in said[0]
    assert done.stdout == ""


def test_processes_that_cannot_share_are_told_what_to_do() -> None:
    check_share(8, Rank(1, 4), False)
    with pytest.raises(UsageError, match="shared evenly by 3 processes: use --batch-size 33"):
        check_share(32, Rank(0, 3), False)
    with pytest.raises(UsageError, match="torchrun"):
        check_share(32, Rank(), True)
    with pytest.raises(StudentError, match="has no GPU"):
        own_device(torch.device("cuda"), Rank(1, 2, local=torch.cuda.device_count()))
    assert own_device(torch.device("cpu"), Rank(1, 2, 1)) == torch.device("cpu")
