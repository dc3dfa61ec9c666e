"""``udrl train --from`` and ``--commands text``, end to end: trained, calibrated, asked, benchmarked."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

import udrl
import udrl.cli.main as cli
from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import LENGTH, Command, CommandSpace
from udrl.data.episodes import read_episodes, write_episodes
from udrl.errors import StudentError, UsageError
from udrl.rewards import load_reward
from udrl.rewards.scoring import score
from udrl.student.student import Student
from udrl.teacher.synthesis.synth import synth
from udrl.tokenizer import train_tokenizer
from udrl.training.calibrate import recalibrate
from udrl.training.examples import make_examples
from udrl.training.origin import find_origin
from udrl.training.train import train
from udrl.training.validation import validate
from udrl.words import count_words

OLD, NEW = ("search-query", "text-to-image"), "text-to-video"
SMALL: dict[str, Any] = {
    "batch_size": 16, "learning_rate": 4e-3, "signs_inputs": 0, "calibration_inputs": 0, "device": "cpu",
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks without a student."""
    run = tmp_path_factory.mktemp("from") / "episodes"
    synth(run, tasks=OLD, num_inputs=100, samples=4, seed=1, rewards=("novelty",))  # quicker than relevance
    return run


@pytest.fixture(scope="module")
def tiny(episodes: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that learns to obey in seconds: two layers, and no preset."""
    folder = tmp_path_factory.mktemp("tiny")
    read = read_episodes(episodes / "episodes")
    tokenizer = train_tokenizer([e.input for e in read] + [e.completion for e in read], 500)
    end = tokenizer.eos_token_id
    scratch_gpt2(vocab_size=500, layers=2, width=96, heads=3, context=256, eos=end, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def before(episodes: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two tasks with a student that obeys length."""
    run = tmp_path_factory.mktemp("from") / "two"
    shutil.copytree(episodes, run)
    train(run, student=tiny, steps=600, **SMALL)
    return run


@pytest.fixture(scope="module")
def after(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a third task alone, with one reward more, whose student was started from the other."""
    run = tmp_path_factory.mktemp("from") / "third"
    synth(run, tasks=(NEW,), num_inputs=60, samples=3, seed=2, score=False)
    score(run, rewards=("novelty",), reward_fields=("fidelity=0:1",))
    train(run, start_from=before, steps=120, **{**SMALL, "calibration_inputs": 1})
    return run


def loss_and_gap(student: Student, run: Path) -> tuple[float, float]:
    """The loss on a run's validation episodes, and its gap to shuffled commands."""
    held = read_episodes(run / "episodes", splits=("validation",))
    examples = make_examples(held, student.tokenizer, student.space, context=student.computes.context)
    found = validate(student.computes.model, examples, 0, dtype=student.computes.dtype, seed=0)
    return found.loss, found.gap


THINGS = ("red fox", "harbour", "paper lantern", "glass tower", "old bridge", "market", "lighthouse", "kite")
TEXTS = [f"a {thing} {place}" for thing in THINGS for place in ("at dawn", "in the snow")]


def written(student: Student, task: str, attribute: str, level: float) -> list[str]:
    """What is written for TEXTS under a commanded quantile of the attribute."""
    command = Command(task, {attribute: student.space.quantile(task, attribute, level)})
    return [one.completion for one in student.generate(TEXTS, [command] * len(TEXTS), calibrated=False)]


def mean_words(student: Student, task: str, level: float) -> float:
    """The mean length of completions under a commanded quantile of length."""
    return sum(map(count_words, written(student, task, LENGTH, level))) / len(TEXTS)


def test_from_keeps_what_is_known_and_adds_what_is_new(before: Path, after: Path, tiny: str) -> None:
    old, new = CommandSpace.load(before / "student"), CommandSpace.load(after / "student")
    assert new.tasks == (*old.tasks, NEW)
    assert [a.name for a in new.attributes] == ["novelty", LENGTH, "fidelity"]
    for task in old.tasks:
        for name, scale in old.scales[task].items():
            assert new.scales[task][name] == scale, "bins are never refitted"
    one, other = (json.loads((run / "student" / "tokenizer.json").read_text())["model"] for run in (before, after))
    assert one == other
    facts = json.loads((after / "run.json").read_text())["stages"]["train"]
    assert facts["student"] == tiny
    assert facts["origin"]["tasks"] == list(OLD)
    assert facts["origin"]["weights"] == find_origin(before).weights
    assert 0.15 < facts["origin"]["replayed"] / len(read_episodes(before / "episodes")) < 0.35
    card = (after / "student" / "README.md").read_text()
    assert f"Started from**: the student {before / 'student'}" in card
    assert not (after / ".student.partial").exists()


def test_from_obeys_in_the_old_tasks_as_in_the_new(before: Path, after: Path) -> None:
    old, new = udrl.load(before, device="cpu"), udrl.load(after, device="cpu")
    (was, gap), (loss, now) = loss_and_gap(old, before), loss_and_gap(new, before)
    assert loss < was + 0.3, "replay keeps what was known"
    assert now > 0.3 * gap > 0, "and obeyed"
    long, short = (sum(mean_words(new, task, level) for task in (*OLD, NEW)) for level in (0.95, 0.05))
    assert long > short + 3, "and so is what is new"
    assert new.calibration is not None
    assert set(new.calibration.curves) == {*OLD, NEW}, "weights have changed: old tasks are measured again"


def test_a_reward_is_obeyed(before: Path) -> None:
    student, novelty = udrl.load(before, device="cpu"), load_reward("novelty")
    low, high = (
        sum(sum(novelty(TEXTS, written(student, task, "novelty", level))) for task in OLD) for level in (0.05, 0.95)
    )
    assert high > low


def test_from_fits_the_bins_of_what_is_named_anew(before: Path, tmp_path: Path) -> None:
    run = tmp_path / "anew"
    shutil.copytree(before, run)
    shutil.rmtree(run / "student")
    was = CommandSpace.load(before / "student")
    middle = {task: was.quantile(task, LENGTH, 0.5) for task in OLD}
    every = read_episodes(run / "episodes", splits=("train", "validation"))
    longer = [e for e in every if e.horizon >= middle[e.task]]
    write_episodes(run / "episodes", longer, reward_names=("novelty",))
    train(run, start_from=before / "student", replay=0.0, refit=(LENGTH,), steps=2, **SMALL)
    now = CommandSpace.load(run / "student")
    for task in OLD:
        assert now.scales[task][LENGTH].centres[0] >= middle[task] > was.scales[task][LENGTH].centres[0]
        assert now.scales[task]["novelty"] == was.scales[task]["novelty"]


def test_from_without_replay_warns_of_what_may_be_forgotten(before: Path, after: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(after, run)
    alone = tmp_path / "checkpoint"
    shutil.copytree(before / "student", alone)
    with pytest.warns(UserWarning, match="may forget what it is not trained on again: search-query, text-to-image"):
        report = train(run, start_from=alone, steps=2, **SMALL)
    assert report.episodes == len(read_episodes(run / "episodes"))


def test_from_wrong_usage_is_one_sentence(before: Path, after: Path, tmp_path: Path) -> None:
    for options in ({"student": "gpt2-mini"}, {"vocab_size": 600}, {"commands": "text"}, {"init": "random"}):
        with pytest.raises(UsageError, match="keeps its model, tokenizer and kind of command"):
            train(after, start_from=before, steps=1, **options)  # type: ignore[arg-type]
    with pytest.raises(StudentError, match="there is no student at"):
        train(after, start_from=tmp_path, steps=1)
    (tmp_path / "student").mkdir()
    with pytest.raises(StudentError, match="not a student of udrl"):
        train(after, start_from=tmp_path, steps=1)
    assert cli.run(["train", "--run", str(after), "--from", str(before), "--commands", "text"]) == 2
    for name in ("one", "another"):
        shutil.copytree(before, tmp_path / name)
        facts = json.loads((tmp_path / name / "run.json").read_text())
        facts["stages"]["score"]["encoder"] = {"name": f"{name}-encoder"}
        (tmp_path / name / "run.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=r"scored with another-encoder: .* --encoder one-encoder"):
        train(tmp_path / "another", start_from=tmp_path / "one", steps=1)


# -- commands as text ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken(episodes: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first run again, with a student that is commanded in words, drawn by bin."""
    run = tmp_path_factory.mktemp("text") / "run"
    shutil.copytree(episodes, run)
    options = {**SMALL, "calibration_inputs": 1}
    train(run, student=tiny, commands="text", balance=True, attributes=(LENGTH,), steps=600, **options)
    return run


def test_text_commands_are_obeyed_and_calibrated(spoken: Path) -> None:
    student = udrl.load(spoken, device="cpu")
    assert student.space.text is not None
    assert mean_words(student, "text-to-image", 0.95) > mean_words(student, "text-to-image", 0.05) + 2
    assert student.calibration is not None
    assert set(student.calibration.curves) == set(OLD)
    assert "| search-query length=5 =>" in (spoken / "student" / "README.md").read_text()


def test_text_commands_through_generate_guidance_render_and_bench(
    spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--run", str(spoken), "--device", "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = cli.run(["generate", *common, "--task", "text-to-image", "--length", "12", "--guidance", "1.5",
                        "--json", "a red fox"])  # fmt: skip
    assert code == 0
    assert json.loads(capsys.readouterr()[0])["command"] == {LENGTH: 12.0}
    rows = tmp_path / "rows.jsonl"
    assert cli.run(["render", "--run", str(spoken), "--output", str(rows)]) == 0
    first = json.loads(rows.read_text().splitlines()[0])
    assert first["prompt"].endswith(" =>")
    assert f" | {first['task']} length=" in first["prompt"]
    student = udrl.load(spoken, device="cpu")
    assert student.tokenizer.encode(" " + first["prompt"], add_special_tokens=False) == first["prompt_ids"]


def test_recalibrating_measures_the_tasks_of_both_runs(after: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(after, run)
    recalibrate(run, inputs=1, temperature=0.5)
    found = udrl.load(run, device="cpu").calibration
    assert found is not None
    assert set(found.curves) == {*OLD, NEW}
    facts = json.loads((run / "run.json").read_text())
    facts["stages"]["train"]["origin"]["student"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.raises(StudentError, match="search-query, text-to-image any more"):
        recalibrate(run, inputs=1, temperature=0.6)
    assert udrl.load(run, device="cpu").calibration == found
