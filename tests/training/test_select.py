"""``udrl select``: the measure, what is kept by it, and training on what was kept."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from methods_run import INPUTS, SMALL, TASKS, WORDS, episodes_of, methods_run

import udrl
import udrl.cli.main as cli
from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes, write_episodes
from udrl.data.run import Run
from udrl.errors import RunError, StudentError, UsageError
from udrl.training.material import gather
from udrl.training.methods import Udrl
from udrl.training.origin import find_origin
from udrl.training.selection import probe
from udrl.training.selection.impact import CELL, alignment, best_share, cells_of, file_of, selected
from udrl.training.selection.select import select
from udrl.training.train import train

PROBE = {"student": "gpt2-700k", "probe_steps": 8, "moments": 2, "device": "cpu", "precision": "fp32"}
SPLITS = ("train",)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return methods_run(tmp_path, monkeypatch)[0]


def kept_ids(run: Path, name: str) -> set[str]:
    return {e.episode_id for e in selected(Run(run), name, read_episodes(run / "episodes", splits=SPLITS))}


# -- the measure -------------------------------------------------------------------------------------------------------


def test_score_is_limrs_formula_against_the_average_of_the_own_task() -> None:
    values = np.array([[0.2, 0.6], [0.4, 0.8], [0.9, 0.9], [0.1, 0.1]])
    mean = (values[0] + values[1]) / 2
    whole = ((1 - mean) ** 2).sum()
    scores = alignment(["a", "a", "b", "b"], values)
    assert scores[:2] == pytest.approx([1 - ((r - mean) ** 2).sum() / whole for r in values[:2]])
    assert scores[2] == scores[3] == pytest.approx(1 - 0.16 * 2 / 0.5)


def test_score_prefers_the_average_way_of_learning_to_both_extremes_and_leaves_the_unread_out() -> None:
    learned, typical, never = [0.9, 0.95, 0.99], [0.2, 0.5, 0.6], [0.05, 0.05, 0.05]
    unread = [math.nan] * 3
    scores = alignment(["t"] * 6, np.array([learned, typical, typical, typical, never, unread]))
    assert scores[1] > max(scores[0], scores[4])
    assert np.isnan(scores[5])
    assert alignment(["t"] * 5, np.array([learned, typical, typical, typical, never])) == pytest.approx(scores[:5])


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=80),
    st.floats(0.01, 1),
)
def test_kept_are_the_share_of_every_task_and_cell_with_the_highest_keys(
    samples: list[tuple[str, int, float]], share: float
) -> None:
    tasks, cells = [task for task, _, _ in samples], [(cell,) for _, cell, _ in samples]
    keys = np.array([key for _, _, key in samples])
    kept = best_share(tasks, cells, keys, share)
    for task in set(tasks):
        own = [i for i, other in enumerate(tasks) if other == task]
        assert kept[own].sum() == max(1, math.floor(share * len(own) + 0.5))
        for cell in {cells[i] for i in own}:
            members = [i for i in own if cells[i] == cell]
            assert math.floor(share * len(members)) <= kept[members].sum() <= math.floor(share * len(members)) + 1
            best, left = [keys[i] for i in members if kept[i]], [keys[i] for i in members if not kept[i]]
            assert not best or not left or min(best) >= max(left)


def scored(count: int) -> list[Episode]:
    """Episodes whose returns, lengths and a reward that some lack vary independently of each other."""
    rng = np.random.default_rng(3)
    one = episodes_of(seed=1)[0]
    return [
        replace(
            one, episode_id=str(i), horizon=int(rng.integers(1, 40)),
            returns={"relevance": float(rng.random()), "novelty": float(rng.random()) if i % 2 else None},
        )
        for i in range(count)
    ]  # fmt: skip


def test_bins_keep_the_range_that_commands_need_where_the_score_goes_with_the_return() -> None:
    episodes = [replace(e, returns={"relevance": e.returns["relevance"]}) for e in scored(2000)]
    returns = np.array([e.returns["relevance"] for e in episodes], dtype=float)
    lengths = np.array([e.horizon for e in episodes])
    tasks, score = [e.task for e in episodes], -abs(returns - 0.5)  # the worst case: the middle is always the best
    binned = best_share(tasks, cells_of(episodes, 10), score, 0.2)
    plain = best_share(tasks, cells_of(episodes, 1), score, 0.2)
    assert binned.sum() == plain.sum() == 400
    assert returns[plain].std() < 0.25 * returns.std()
    assert returns[binned].std() > 0.8 * returns.std()
    assert lengths[binned].std() > 0.9 * lengths.std()


def test_cells_are_as_fine_as_the_episodes_allow_and_a_missing_return_has_its_own() -> None:
    for count in (200, 2000):
        cells = Counter(cells_of(scored(count), 5))
        assert count / len(cells) >= CELL / 2  # a missing return halves some
    assert {cell[0] for cell in cells_of(scored(2000), 5)} == {-1, 0, 1, 2, 3}
    assert len(set(cells_of(scored(10), 5))) == 2


# -- a run -------------------------------------------------------------------------------------------------------------


def test_select_keeps_a_share_of_each_task_and_training_on_it_sees_nothing_else(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in (run / "episodes").iterdir()}
    report = udrl.select(run, share=0.4, **PROBE)
    assert {p.name: p.read_bytes() for p in (run / "episodes").iterdir()} == before
    episodes = read_episodes(run / "episodes", splits=SPLITS)
    assert report.name == "limr-0.4"
    assert [report.tasks[t].kept for t in TASKS] == [round(0.4 * len(episodes) / 2)] * 2
    assert report.kept == len(kept_ids(run, "limr-0.4")) == sum(t.kept for t in report.tasks.values())
    for found in report.tasks.values():
        assert 0 < found.trajectory[0] < found.trajectory[1] < 1  # what is learned becomes likely
        assert found.lowest is not None
        assert found.lowest <= (found.highest or 0) <= 1
    made = train(run, **SMALL, student="gpt2-700k", selection="limr-0.4")
    assert made.episodes == report.kept
    stages = json.loads((run / "run.json").read_text())["stages"]
    assert stages["train"]["selection"] == "limr-0.4"
    assert "training split (selection limr-0.4)" in (run / "student" / "README.md").read_text()
    assert stages["select"]["kept"] == report.kept
    train(run, **SMALL, student="gpt2-700k")
    assert "selection" not in json.loads((run / "run.json").read_text())["stages"]["train"]
    assert "selection" not in (run / "student" / "README.md").read_text()


def test_selection_leaves_out_what_a_student_of_the_same_run_would_be_trained_on_again(
    run: Path,
) -> None:
    udrl.select(run, by="random", share=0.4)
    train(run, **SMALL, student="gpt2-700k")
    origin = find_origin(run)
    material = gather(Run(run), Udrl(), origin, selection="random-0.4", replay=1.0, seed=0)
    assert {e.episode_id for e in material.pool.episodes} == kept_ids(run, "random-0.4")
    assert material.replayed == 0
    other = Run(run.with_name("other"))
    rest = [replace(e, episode_id=f"other-{e.episode_id}") for e in read_episodes(run / "episodes", splits=SPLITS)]
    with other.writing():
        write_episodes(other.episodes, rest, reward_names=("brevity", "relevance"))
    again = gather(Run(run), Udrl(), replace(origin, run=other), selection="random-0.4", replay=1.0, seed=0)
    assert {e.episode_id for e in again.pool.episodes} == kept_ids(run, "random-0.4") | {e.episode_id for e in rest}
    assert again.replayed == len(rest), "another run's are replayed"


def test_a_finished_probe_serves_other_choices(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    udrl.select(run, share=0.3, bins=1, **PROBE)
    monkeypatch.setattr(probe, "likelihoods", None)  # would be called by another probe
    udrl.select(run, share=0.3, bins=1, by="inverse", **PROBE)
    udrl.select(run, share=1, bins=1, name="everything", **PROBE)
    assert not kept_ids(run, "limr-0.3") & kept_ids(run, "inverse-0.3")
    assert len(kept_ids(run, "everything")) == len(read_episodes(run / "episodes", splits=SPLITS))
    with pytest.raises(TypeError):
        udrl.select(run, share=0.3, **PROBE, seed=1)


def test_an_interrupted_probe_goes_on_and_chooses_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    udrl.select(run, **PROBE)
    whole = (run / "selections" / "limr-0.2.parquet").read_bytes()
    calls, real = [], probe.likelihoods

    def stop_at_the_second(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(probe, "likelihoods", stop_at_the_second)
    monkeypatch.setattr(probe, "SAVE_EVERY", 3)
    (run / "selections" / "limr-0.2.parquet").unlink()
    with pytest.raises(KeyboardInterrupt):
        udrl.select(run, restart=True, **PROBE)
    assert not list((run / "selections").glob("*.parquet"))
    assert (run / probe.PARTIAL / "training_state.pt").exists()
    monkeypatch.setattr(probe, "likelihoods", real)
    udrl.select(run, **PROBE)
    assert (run / "selections" / "limr-0.2.parquet").read_bytes() == whole
    assert not (run / probe.PARTIAL).exists()


def test_random_needs_no_probe_repeats_with_its_seed_and_differs_with_another(run: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        report = udrl.select(run, by="random", share=0.3, name=name, seed=seed)
        assert report.probe_steps == 0
    assert kept_ids(run, "a") == kept_ids(run, "b") != kept_ids(run, "c")


def test_completions_that_nothing_predicts_are_left_out(tmp_path: Path) -> None:
    """Among episodes that a student can learn, a tenth are words in random order: LIMR keeps less than their share."""
    rng = np.random.default_rng(0)
    one = episodes_of(seed=1)[0]
    episodes = []
    for i in range(400):
        text = f"{INPUTS[i % len(INPUTS)]} {WORDS[i % 7]}"
        noise = i % 10 == 0
        completion = " ".join(rng.permutation([*WORDS, *WORDS]).tolist()) if noise else f"{text} in the snow"
        episodes.append(
            replace(one, episode_id=f"{'noise' if noise else 'good'}-{i}", input=text, completion=completion)
        )
    place = Run(tmp_path / "run")
    with place.writing():
        write_episodes(place.episodes, episodes, reward_names=("brevity", "relevance"))
    probe = {**PROBE, "probe_steps": 60, "moments": 3}
    udrl.select(place.path, share=0.5, bins=1, **probe)
    kept = Counter(i.split("-")[0] for i in kept_ids(place.path, "limr-0.5"))
    assert kept["good"] == 200 - kept["noise"]
    assert kept["noise"] <= 4  # at random: 20


def test_a_training_on_another_selection_does_not_go_on_with_an_interrupted_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import udrl.training.train as training

    for name, seed in (("a", 1), ("b", 2)):
        udrl.select(run, by="random", share=0.3, name=name, seed=seed)
    options = {**SMALL, "student": "gpt2-700k"}
    train(run, **options, selection="b")
    whole = (run / "student" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(training, "publish", None)
        with pytest.raises(TypeError):
            train(run, **options, selection="a")
    assert (run / ".student.partial" / "training_state.pt").exists()
    with pytest.raises(StudentError, match="--restart"):
        train(run, **options, selection="b")
    train(run, **options, selection="b", restart=True)
    assert (run / "student" / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0"),
        ({"share": 1.5}, "at most 1, got 1.5"),
        ({"by": "best"}, "known: inverse, limr, random"),
        ({"name": "../up"}, "is no name for a selection"),
        ({"moments": 3, "probe_steps": 2}, "a step for every moment"),
        ({"student": "gpt2-nano"}, "did you mean gpt2"),
    ],
)
def test_wrong_usage_is_one_sentence(run: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        udrl.select(run, **options)  # type: ignore[arg-type]
    assert not (run / "selections").exists()


def test_selections_that_cannot_be_used_say_why(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make one with udrl select"):
        train(run, **SMALL, student="gpt2-700k", selection="limr-0.2")
    udrl.select(run, by="random", share=0.5)
    with pytest.raises(UsageError, match=r"known: random-0\.5"):
        train(run, **SMALL, student="gpt2-700k", selection="limr-0.2")
    episodes = read_episodes(run / "episodes", splits=("train", "validation"))
    with Run(run).writing():
        write_episodes(run / "episodes", episodes[1:], reward_names=("brevity", "relevance"))
    with pytest.raises(StudentError, match="made from other episodes or returns"):
        train(run, **SMALL, student="gpt2-700k", selection="random-0.5")
    (run / "selections" / "random-0.5.parquet").write_bytes(b"torn")
    with pytest.raises(StudentError, match="make it again"):
        train(run, **SMALL, student="gpt2-700k", selection="random-0.5")
    with pytest.raises(RunError, match="no run at"):
        udrl.select(tmp_path / "nothing")
    with Run(run).writing():
        write_episodes(run / "episodes", [], reward_names=("relevance",))
    with pytest.raises(StudentError, match="no training episodes"):
        udrl.select(run)


def test_select_on_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["select", "--run", str(run), "--by", "random", "--share", "0.5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"] == report["tasks"]["poem"]["kept"] + report["tasks"]["query"]["kept"]
    assert cli.run(["select", "--run", str(run), "--by", "random", "--share", "0.5"]) == 0
    assert "--selection random-0.5" in capsys.readouterr().out
    assert cli.run(["select", "--run", str(run), "--share", "0"]) == 2
    assert (
        cli.run(["train", "--run", str(run), "--student", "gpt2-700k", "--steps", "1", "--selection", "limr-0.5"]) == 2
    )
    assert "unknown selection 'limr-0.5'" in capsys.readouterr().err


def test_selection_that_would_keep_nothing_is_not_made(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(place: Run, episodes: list[Any], **_: Any) -> tuple[Any, int, float]:
        return np.full((len(episodes), 3), np.nan), 3, 0.1

    monkeypatch.setattr("udrl.training.selection.select.probed", too_long)
    with pytest.raises(StudentError, match=r"nothing would be kept: all .* are too long for the probe"):
        select(run, name="none")
    assert not file_of(Run(run), "none").exists()
