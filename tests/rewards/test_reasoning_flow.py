"""Right and wrong answers from one end to the other: a run of two generated tasks, its student, what measures it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from methods_run import import_trl

import udrl.cli.main as cli
from udrl.commands import LENGTH, Attribute, Command, CommandSpace, Scale
from udrl.data.arithmetic import parse
from udrl.data.constraints import kept
from udrl.data.episodes import read_episodes
from udrl.data.inputs import input_id
from udrl.data.known_answers import read_answers
from udrl.errors import RewardError
from udrl.eval import bench as bench_module
from udrl.eval.suites import Suite, Sweep, load_suite
from udrl.rewards import load_reward
from udrl.rewards.scoring import score
from udrl.student.student import load_student
from udrl.student.targets import positions_of
from udrl.teacher.synthesis.synth import synth
from udrl.training.train import train

TASKS = ("arithmetic", "instructions")
PROBLEM = "Ann has 3 apples. Ann finds 4 more. How many apples does Ann have now?"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tasks with what they are scored with by default, and a student that has hardly learnt anything."""
    path = tmp_path_factory.mktemp("reasoning") / "run"
    synth(path, tasks=TASKS, num_inputs=80, samples=4)
    train(path, student="gpt2-700k", steps=4, batch_size=8, vocab_size=500, calibration_inputs=1, signs_inputs=1,
          device="cpu", precision="fp32")  # fmt: skip
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[dict[str, Any]], str]:
    code = cli.run([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return ([json.loads(out)] if out.lstrip().startswith("{\n") else [json.loads(x) for x in out.splitlines()]), err


def test_reasoning_episodes_have_the_returns_of_their_task_and_no_others(run: Path) -> None:
    episodes = read_episodes(run / "episodes", splits=("train", "validation", "test"))
    assert {episode.task for episode in episodes} == set(TASKS)
    for episode in episodes:
        problem = parse(episode.input)
        if problem is None:
            assert episode.returns == {"accuracy": None, "constraints": kept(episode.input, episode.completion)}
        else:
            assert episode.returns["constraints"] is None
            assert episode.returns["accuracy"] in (0.0, 1.0)
    right = [e.returns["accuracy"] for e in episodes if e.task == "arithmetic" and e.origin == "teacher"]
    assert 0.4 < sum(filter(None, right)) / len(right) < 0.6


def test_reasoning_student_is_commanded_in_two_values_and_calibrated_where_they_are_known(run: Path) -> None:
    student = load_student(run, device="cpu")
    assert student.attributes == ("accuracy", "constraints", LENGTH)
    assert student.calibration is not None
    assert {task: set(of) for task, of in student.calibration.curves.items()} == {
        "arithmetic": {"accuracy", LENGTH},
        "instructions": {"constraints", LENGTH},
    }
    trained = {tuple(student.space.render("arithmetic", {"accuracy": k / 4})) for k in range(37)}
    wanted = [student.space.positions("arithmetic", {"accuracy": value}) for value in (0.0, 1.0)]
    assert trained == {tuple(student.space.render("arithmetic", one)) for one in wanted}, "no row that was not trained"
    for target in (0.0, 1.0):  # whatever it reaches: this one does not know how to be right
        positions = positions_of(Command("arithmetic", {"accuracy": target}), student.space, student.calibration).of
        assert positions == wanted[int(target)]


@pytest.mark.filterwarnings("always:accuracy is not scored")
def test_reasoning_is_scored_where_the_answer_is_known_and_told_where_not(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (
        "generate",
        "--run",
        str(run),
        "--task",
        "arithmetic",
        "--target",
        "accuracy=1",
        "--score",
        "--device",
        "cpu",
    )
    [known], _ = call(capsys, *asked, PROBLEM)
    assert known["command"] == {"accuracy": 1.0}
    assert known["achieved"]["accuracy"] == load_reward("accuracy")([PROBLEM], [known["completion"]])[0]
    assert "constraints" not in known["achieved"]
    [unknown], told = call(capsys, *asked, "What is nine times nine?")
    assert "accuracy is not scored for 'What is nine times nine?': its right answer is not known; give a table" in told
    assert set(unknown["achieved"]) == {"relevance", LENGTH}


def test_reasoning_run_is_benchmarked_in_each_tasks_own_reward(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(run, tmp_path / "moved"))
    chosen: list[object] = []

    def quick(name: str | Path) -> Suite:
        chosen.append(name)
        sweep = Sweep(inputs=2, seeds=1, attributes=("accuracy",))
        return replace(
            load_suite(name), following=sweep, samples=1, latency_requests=1, systems=("student@open", "teacher")
        )

    monkeypatch.setattr(bench_module, "load_suite", quick)
    [summary], _ = call(capsys, "bench", "--run", str(own), "--limit", "4", "--device", "cpu")
    assert chosen == ["heldout"], "no suite that ships has problems"
    assert summary["systems"]["teacher"]["rewards"]["accuracy"]["mean"] == 1.0, "asked to be careful, it is right"
    assert summary["systems"]["teacher"]["rewards"]["constraints"]["mean"] == 1.0
    assert set(summary["command_following"]["student"]["accuracy"]["per_task"]) == {"arithmetic"}
    for row in pq.read_table(own / "bench" / "heldout" / "scores.parquet").to_pylist():
        measured = {name for name, value in row["rewards"].items() if value is not None}
        assert measured <= {"accuracy" if row["task"] == "arithmetic" else "constraints"}


def test_reasoning_is_trained_by_grpo_and_improved_on_what_is_known(run: Path, tmp_path: Path) -> None:
    from udrl.rounds.improve import improve
    from udrl.rounds.options import RoundOptions
    from udrl.training.methods import Grpo

    import_trl()
    own, other = Path(shutil.copytree(run, tmp_path / "own")), tmp_path / "grpo"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("student"))
    quick: dict[str, Any] = {"batch_size": 8, "calibration_inputs": 0, "signs_inputs": 0, "device": "cpu"}
    paid = Grpo(reward="accuracy", group_size=4)
    assert train(other, method=paid, start_from=run, steps=1, **quick).steps == 1
    options = RoundOptions(
        reward="accuracy", num_inputs=16, samples=4, steps=2, validation_inputs=2, sweep_inputs=1, calibration_inputs=1
    )
    improve(own, rounds=1, options=options, device="cpu")
    new = read_episodes(own / "rounds" / "1" / "episodes", origins=("student",), kept=False)
    assert {episode.task for episode in new} == {"arithmetic"}


def test_reasoning_answers_come_with_inputs_and_are_missed_where_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "run"
    rows = [{"input": f"What is {n} plus {n}?", "output": [f"It is {2 * n}.", f"It is {n}."]} for n in range(1, 13)]
    file, answers = tmp_path / "outputs.jsonl", tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    synth(own, teacher=f"recorded:{file}", score=False)
    with pytest.raises(RewardError, match="'accuracy' cannot be computed for any input of the run, such as 'What is"):
        score(own, rewards=("accuracy",))
    known = [{"question": row["input"], "answer": 2 * n} for n, row in enumerate(rows[:11], start=1)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in known), encoding="utf-8")
    moved = own.rename(tmp_path / "moved")
    [report], _ = call(capsys, "score", "--run", str(moved), "--reward", "accuracy", "--answers", str(answers))
    assert report["unscored"]["accuracy"] >= 2
    assert report["means"]["accuracy"]["teacher"] == 0.5
    answers.unlink()
    score(moved, rewards=("accuracy", "cosine_length:12"))
    episodes = read_episodes(moved / "episodes", splits=("train", "validation", "test"), origins=("teacher",))
    unknown = [e for e in episodes if e.input == rows[11]["input"]]
    assert [e.returns["accuracy"] for e in unknown] == [None, None]
    assert all(not math.isnan(e.returns["cosine_length"] or 0) for e in episodes)


def test_reasoning_scale_of_few_values_has_a_centre_for_each_and_nothing_between() -> None:
    rare = Scale.fit([0.0] * 970 + [1.0] * 30)
    assert rare.centres == (0.0, 1.0)
    assert rare.is_discrete
    assert rare.positions[1] - rare.positions[0] > 4
    even = Scale.fit([0.0, 1.0] * 300)
    assert even.positions == (2.0, 7.0)
    assert [even.settled(position) for position in (0.0, 4.4, 4.6, 9.0)] == [2.0, 2.0, 7.0, 7.0]
    wide = Scale.fit([k / 997 for k in range(997)])
    assert not wide.is_discrete
    assert wide.settled(4.4) == 4.4
    few = Scale.fit([k / 130 for k in range(130)])
    assert len(few.centres) == 2
    assert not few.is_discrete, "two bins of many values are not two values"
    space = CommandSpace(10, ("t",), (Attribute("a", 0, 1),), {"t": {"a": even}})
    assert space.render("t", {"a": 4.4}) == space.render("t", {"a": 2.0})
    assert space.render("t", {"a": None}) == space.render("t", {})
    assert space.shown("t", {"a": 9.0}) == space.shown("t", {"a": 7.0})


@pytest.mark.slow
def test_reasoning_recorded_answers_of_real_models_are_labelled_and_analysed(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gzip

    with gzip.open(shared_data / "recorded_gsm8k.jsonl.gz", "rt", encoding="utf-8") as lines:
        every = [json.loads(line) for line in lines]
    wanted = {row["input"] for row in every[:40]}
    rows = [row for row in every if row["input"] in wanted]
    file, own = tmp_path / "gsm8k.jsonl.gz", tmp_path / "run"
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    [made], _ = call(
        capsys,
        "synth",
        "--teacher",
        f"recorded:{file}",
        "--run",
        str(own),
        "--reward",
        "accuracy",
        "--reward",
        "format",
    )
    assert made["written"] == len(rows) == 280
    assert read_answers(own) == {input_id(row["input"]): row["answer"] for row in rows}
    episodes = read_episodes(own / "episodes", splits=("train", "validation", "test"), origins=("teacher",))
    assert len(episodes) > 0.6 * len(rows)
    assert {e.returns["accuracy"] for e in episodes} == {0.0, 1.0}
    large = [e.returns["accuracy"] or 0.0 for e in episodes if "70B" in e.teacher or "72B" in e.teacher]
    assert sum(large) / len(large) > 0.8, "two good models solve most of the problems"
    false = read_episodes(own / "episodes", splits=("train", "validation", "test"), origins=("mismatched",))
    assert sum(e.returns["accuracy"] or 0.0 for e in false) < 0.3 * len(false), "another problem's answer is wrong"
    found, _ = call(capsys, "report", "--episodes", "--run", str(own))
    page = Path(found[0]["page"]).read_text(encoding="utf-8")
    assert "accuracy" in page
    assert "Meta-Llama-3-70B-Instruct" in page
