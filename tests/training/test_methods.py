"""What each training method learns from, and supervised training with weights and without commands."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from methods_run import INPUTS, SMALL, TASKS, episodes_of, methods_run
from tiny_students import examples, new_student, options

import udrl
import udrl.cli.main as cli
from udrl.commands import LENGTH, Command
from udrl.data.episode import Episode
from udrl.errors import StudentError, UsageError
from udrl.training.loop import run_loop
from udrl.training.methods import Dpo, Grpo, Sft, Top, Udrl, Weighted, method_of
from udrl.training.methods.method_data import pool_of, without_derived
from udrl.training.methods.watch import WINDOW, Watch
from udrl.training.train import train

EPISODES = episodes_of(seed=1)


def value(episode: Episode) -> float:
    found = episode.returns["brevity"]
    assert found is not None
    return found


def test_top_takes_the_best_fifth_of_each_task_and_nothing_derived() -> None:
    pool = pool_of(Top(reward="brevity"), EPISODES)
    for task in TASKS:
        members = [e for e in without_derived(EPISODES) if e.task == task]
        taken = [e for e in pool.episodes if e.task == task]
        assert len(taken) == math.ceil(0.2 * len(members))
        left = [e for e in members if e not in taken]
        assert min(map(value, taken)) >= max(map(value, left))
    assert pool.scored == len(without_derived(EPISODES))
    assert not {e.origin for e in pool.episodes} & {"mismatched", "truncated"}


def test_weights_have_mean_one_in_each_task_and_rise_with_the_return() -> None:
    pool = pool_of(Weighted(reward="brevity", temperature=0.5), EPISODES)
    assert pool.weights is not None
    for task in TASKS:
        pairs = sorted((value(e), w) for e, w in zip(pool.episodes, pool.weights, strict=True) if e.task == task)
        assert np.mean([w for _, w in pairs]) == pytest.approx(1)
        assert [w for _, w in pairs] == sorted(w for _, w in pairs)
        assert pairs[-1][1] > 2 * pairs[0][1]
    equal = [replace(e, returns={"brevity": 0.5}) for e in EPISODES]
    assert set(pool_of(Weighted(reward="brevity"), equal).weights or ()) == {1.0}


@pytest.mark.parametrize("gap", [0.0, 0.25, 0.8])
def test_dpo_pairs_are_of_one_input_with_the_gap_between_them_and_use_nothing_twice(gap: float) -> None:
    pairs = pool_of(Dpo(reward="brevity", gap=gap), EPISODES).pairs
    assert pairs
    ranges = {
        task: float(
            np.subtract(*np.quantile([value(e) for e in without_derived(EPISODES) if e.task == task], [0.9, 0.1]))
        )
        for task in TASKS
    }
    for pair in pairs:
        assert (pair.chosen.task, pair.chosen.input_id) == (pair.rejected.task, pair.rejected.input_id)
        difference = value(pair.chosen) - value(pair.rejected)
        assert difference > 0
        assert difference >= gap * ranges[pair.chosen.task]
    used = Counter(e.episode_id for pair in pairs for e in (pair.chosen, pair.rejected))
    assert max(used.values()) == 1


def test_methods_that_find_nothing_to_learn_from_say_so() -> None:
    single = [e for e in EPISODES if e.origin == "teacher" and e.seed == 0]
    with pytest.raises(StudentError, match="lower --gap, or ask the teacher"):
        pool_of(Dpo(reward="brevity"), single)
    with pytest.raises(StudentError, match=r"'brevty' \(did you mean brevity\?\)"):
        pool_of(Top(reward="brevty"), EPISODES)
    with pytest.raises(StudentError, match="leaves derived episodes out"):
        pool_of(Sft(), [e for e in EPISODES if e.origin == "truncated"])
    assert len(pool_of(Udrl(), EPISODES).episodes) == len(EPISODES)


def test_a_loss_with_equal_weights_is_that_without_and_a_weight_of_zero_leaves_out() -> None:
    data = examples(12)

    def trained(weights: list[float] | None) -> dict[str, torch.Tensor]:
        student = new_student()
        made = options(steps=2, batch_size=12, micro_batch=5, open_all=1.0)
        run_loop(student, replace(data, weights=weights), made, dtype=torch.float32)
        return student.state_dict()

    plain, equal = trained(None), trained([1.0] * 12)
    assert all(torch.equal(plain[name], equal[name]) for name in plain)
    weighted = trained([2.0] * 6 + [0.0] * 6)
    assert not torch.equal(plain["rows.weight"], weighted["rows.weight"])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: method_of("dop"), "unknown method 'dop' .did you mean (dpo|top)"),
        (lambda: method_of("sft", {"gap": 0.1}), "the method sft has no option gap: it belongs to dpo"),
        (lambda: Top(share=0.0), r"share of the method top must be within \(0, 1\]"),
        (lambda: Dpo(beta=-1.0), "beta of the method dpo must be above 0"),
        (lambda: Grpo(group_size=1), "2 or more: advantages are differences"),
        (lambda: Grpo(kl=math.nan), "kl of the method grpo must be 0 or more"),
    ],
)
def test_methods_with_wrong_options_are_wrong_usage(made: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made()  # type: ignore[operator]


def test_watch_gives_each_advice_once_and_only_over_a_window(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(Grpo(), learning_rate=1e-4, max_tokens=40)
    for _ in range(WINDOW - 1):
        watch.take({"loss": 0.0, "zero_variance": 0.75, "clipped": 0.1})
    assert watch.advice == []
    for _ in range(5):
        watch.take({"loss": 0.0, "zero_variance": 0.75, "clipped": 0.1})
    assert len(watch.advice) == 1
    assert "75% of the groups" in watch.advice[0]
    assert "--dynamic-sampling" in watch.advice[0]
    assert capsys.readouterr().err.count("warning: ") == 1
    falling = Watch(Dpo(), learning_rate=1e-4)
    falling.take({"chosen_change": -3.0})
    falling.finish()
    assert "less likely, by 3.0 nats each" in falling.advice[0]


def test_a_student_without_commands_is_trained_asked_and_refuses_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, tiny = methods_run(tmp_path, monkeypatch)
    report = train(run, method="top", student=tiny, **{**SMALL, "calibration_inputs": 2})
    assert report.method == "top"
    pool = pool_of(Top(), [e for e in EPISODES if e.split == "train"])
    assert (report.episodes, report.reward_calls) == (pool.size, pool.scored)
    assert pool.size < pool.scored / 4
    facts = json.loads((run / "run.json").read_text())["stages"]["train"]
    assert facts["method"] == {"name": "top", "reward": "relevance", "share": 0.2}
    assert facts["seconds"] >= 0
    student = udrl.load(run)
    assert student.attributes == ()
    assert student.sampling.max_tokens is not None
    card = (run / "student" / "README.md").read_text()
    assert "by the method top" in card
    assert "**Commands**: none" in card
    assert student.generate([INPUTS[0]], [Command(TASKS[0])])[0].completion is not None
    ask = ["generate", "--run", str(run), "--task", TASKS[0], INPUTS[0]]
    assert cli.run(ask) == 0
    assert cli.run([*ask, "--target-relevance", "0.5"]) == 2
    assert "takes no commands" in capsys.readouterr().err

    # a commanded student can start from it, and learns rows for its attributes
    commanded = train(run, start_from=run, **SMALL)
    assert commanded.method == "udrl"
    again = udrl.load(run)
    assert set(again.attributes) == {"brevity", "relevance", LENGTH}
    assert all(torch.isfinite(p).all() for p in again.computes.model.parameters())  # type: ignore[attr-defined]


def test_train_wrong_combinations_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, tiny = methods_run(tmp_path, monkeypatch)
    base = ["train", "--run", str(run), "--student", tiny, "--steps", "1"]
    for arguments, message in (
        (["--method", "dpo"], "name one with --from RUN"),
        (["--method", "sft", "--balance"], "--balance is about commands"),
        (["--method", "sft", "--group-size", "4"], "the method sft has no option group-size: it belongs to grpo"),
        (["--method", "dpo", "--ratio-clip", "0.1"], "--ratio-clip belongs to --method grpo"),
        (["--method", "dpo", "--explore-temperature", "0.5"], "--explore-temperature belongs to --method grpo"),
    ):
        assert cli.run([*base, *arguments]) == 2
        assert message in capsys.readouterr().err
