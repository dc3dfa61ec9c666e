"""The run folder: one writer, clear refusals, atomic files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from udrl.data.facts import SynthFacts, TeacherFacts, TrainFacts
from udrl.data.run import Run
from udrl.errors import RunError, UsageError
from udrl.files import atomic_write, disk_errors

HOLDER = """
import sys, time
from udrl.data.run import Run
with Run(sys.argv[1]).writing():
    print("held", flush=True)
    time.sleep(60)
"""


def test_run_writing_creates_folder_and_description(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "new")
    with run.writing():
        run.check()
        assert run.facts().schema == 1
    assert run.student == run.path / "student"
    assert run.bench("relevance") == run.path / "bench" / "relevance"


def test_run_refuses_a_second_writer_and_names_its_process(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"being written by process {holder.pid}"), run.writing():
            pass
        run.check()  # readers are welcome
        holder.send_signal(signal.SIGKILL)
    with run.writing():
        pass  # the lock ended with the process, killed or not


def test_run_writing_nests_within_a_process(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.writing():
        with Run(tmp_path / "run").writing():
            pass
        code = "import sys; from udrl.data.run import Run\nwith Run(sys.argv[1]).writing(): pass"
        other = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, check=False)
        assert other.returncode != 0, "the outer block must still hold the lock"
    with run.writing():
        pass


def test_run_refuses_a_newer_schema_and_names_the_version(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 2, "udrl": "9.1.0", "stages": {}}')
    with pytest.raises(RunError, match=r"written by udrl 9\.1\.0 with schema 2.*install udrl 9\.1\.0"):
        run.check()
    with pytest.raises(RunError, match="schema 2"), run.writing():
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "1"}', "{}", '{"schema": 1, "stages": {"train": []}}'])
def test_run_refuses_a_damaged_description(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json"):
        Run(tmp_path).check()


def test_run_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run at"):
        Run(tmp_path / "no").check()
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(RunError, match=r"not empty \(it holds 'thesis.doc'\) and is no run"), Run(tmp_path).writing():
        pass
    file = tmp_path / "thesis.doc"
    with pytest.raises(RunError, match="cannot be written"), Run(file).writing():
        pass
    with pytest.raises(RunError, match="is a file, not a run folder"):
        Run(file).check()


def test_run_record_keeps_other_stages(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.writing():
        run.record(SynthFacts(seed=1, teachers={"builtin": TeacherFacts("builtin")}))
        run.record(TrainFacts(steps=5))
        run.record(SynthFacts(seed=2))
    facts = run.facts()
    assert facts.stages == ("synth", "train")
    assert (facts.synth, facts.train) == (SynthFacts(seed=2), TrainFacts(steps=5))
    train = json.loads((run.path / "run.json").read_text())["stages"]["train"]
    assert train["versions"]["udrl"]
    assert train["hardware"]["cores"] == os.cpu_count()


def test_run_atomic_write_keeps_the_old_contents_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.json"
    atomic_write(path, json.dumps({"old": "é"}))

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full while writing"):
        atomic_write(path, b"new")
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": "é"}
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_run_disk_errors_leaves_other_errors_alone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="weird"), disk_errors(tmp_path):
        raise OSError(errno.EIO, "weird")


@pytest.mark.parametrize("name", ["../student", "a/b", "", ".", "..", ".hidden", "a\0", "a\n", "x" * 201, "é"])
def test_run_folder_of_a_benchmark_lies_among_the_benchmarks(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a benchmark: use letters, digits, dots"):
        Run(tmp_path).bench(name)
    assert Run(tmp_path).bench("v1.2_a-b") == tmp_path / "bench" / "v1.2_a-b"
