"""DPO and GRPO by TRL's own trainers, on a student of two layers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from methods_run import INPUTS, SMALL, TASKS, brevity, import_trl, started_run
from safetensors.torch import load_file
from tiny_students import BASE, new_student

import udrl
import udrl.cli.main as cli
from udrl.architecture.packing import pack
from udrl.commands import Command
from udrl.errors import StudentError, UsageError
from udrl.rewards import load_reward
from udrl.tokenizer import train_tokenizer
from udrl.training.methods import Dpo, Grpo
from udrl.training.methods.grpo import REDRAWS, Rollout
from udrl.training.methods.hosting import hosted, id_text, id_tokenizer
from udrl.training.methods.payment import Payment
from udrl.training.methods.watch import Watch
from udrl.training.methods.writing import Author, Prompt
from udrl.training.train import train

TRL: dict[str, Any] = {**SMALL, "steps": 4}


@pytest.fixture(scope="module", autouse=True)
def trl() -> None:
    import_trl()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A run without and one with a student of a little SFT."""
    with pytest.MonkeyPatch.context() as patch:
        yield started_run(tmp_path_factory.mktemp("methods"), patch)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "student" / "training.jsonl").read_text().splitlines()]


def test_hosted_a_left_padded_batch_has_the_students_own_likelihoods_and_leaves_no_trace() -> None:
    student = new_student().eval()
    rng = np.random.default_rng(0)
    prompts = [[*rng.integers(1, BASE, n).tolist(), *student.space.render("t", {"relevance": 3.0})] for n in (2, 9, 5)]
    completions = [[*rng.integers(1, BASE, n).tolist(), 0] for n in (4, 2, 7)]
    batch = pack(prompts, completions)
    with torch.no_grad():
        own = student.losses(batch)
    before = dict(student.model.__dict__), set(student.state_dict())
    with hosted(student) as model, torch.no_grad():
        width = max(map(len, prompts))
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt + completion])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * (len(prompt) + len(completion))])
            logits = model(input_ids=ids, attention_mask=mask).logits[0]
            assert logits.shape[-1] == BASE  # control ids are never predicted
            found = torch.nn.functional.cross_entropy(
                logits[-len(completion) - 1 : -1], torch.tensor(completion), reduction="none"
            )
            assert torch.allclose(found, own[batch.sequence == row], atol=1e-4)
    assert set(student.state_dict()) == before[1]
    assert set(student.model.__dict__) == set(before[0])


def test_id_texts_come_back_as_they_were() -> None:
    tokenizer = id_tokenizer(1200, 10)
    ids = [1, 0, 10, 100, 1010, 1199, 10]
    assert tokenizer(id_text(ids))["input_ids"] == ids
    assert tokenizer(id_text(ids[:3]) + id_text(ids[3:]))["input_ids"] == ids
    assert id_text(ids).endswith(tokenizer.eos_token)


def test_dpo_makes_what_is_chosen_more_likely_and_is_recorded(runs: tuple[Path, Path], tmp_path: Path) -> None:
    bare, started = runs
    run = shutil.copytree(bare, tmp_path / "dpo")
    before = weights(started)
    report = train(
        run, start_from=started, replay=0.0, method=Dpo(reward="brevity"), **{**TRL, "steps": 12, "learning_rate": 2e-3}
    )
    assert report.signs["accuracy"] > 0.5
    assert report.signs["margin"] > 0
    facts = json.loads((run / "run.json").read_text())["stages"]["train"]
    assert facts["method"]["name"] == "dpo"
    assert facts["method"]["gap"] == 0.25
    assert facts["reward_calls"] == 80
    assert facts["origin"]["weights"]
    logged = [line for line in lines(run) if "loss" in line]
    assert len(logged) == 12
    assert logged[0]["loss"] == pytest.approx(
        np.log(2), abs=1e-3
    )  # at the start both are as likely as in the reference
    assert logged[0]["chosen_change"] == pytest.approx(0, abs=1e-3)
    assert logged[-1]["margin"] > logged[0]["margin"]
    after = weights(run)
    assert after.keys() == before.keys()
    assert not torch.equal(after["transformer.h.0.mlp.c_fc.weight"], before["transformer.h.0.mlp.c_fc.weight"])
    written = udrl.load(run).generate([INPUTS[0]], [Command(TASKS[0])])
    assert isinstance(written[0].completion, str)


def test_dpo_normalised_by_length_is_another_loss(runs: tuple[Path, Path], tmp_path: Path) -> None:
    bare, started = runs
    run = shutil.copytree(bare, tmp_path / "normalised")
    arguments = ["train", "--run", str(run), "--from", str(started), "--method", "dpo", "--method-reward", "brevity"]
    arguments += ["--length-normalised", "--steps", "2", "--batch-size", "8"]
    assert cli.run([*arguments, "--device", "cpu"]) == 0
    recorded = json.loads((run / "run.json").read_text())["stages"]["train"]["method"]
    assert recorded["length_normalised"] is True
    assert recorded["beta"] is None


def test_grpo_counts_its_reward_calls_and_raises_the_reward(runs: tuple[Path, Path], tmp_path: Path) -> None:
    bare, started = runs
    run = shutil.copytree(bare, tmp_path / "grpo")
    method = Grpo(reward="brevity", group_size=4, updates=2, kl=0.01, clip_high=0.28)
    report = train(
        run,
        start_from=started,
        replay=0.0,
        method=method,
        **{**TRL, "steps": 60, "batch_size": 16, "learning_rate": 2e-3},
    )
    assert report.reward_calls == 30 * 16  # a batch is written once for two updates
    logged = [line for line in lines(run) if "reward" in line]
    assert len(logged) == 30
    assert {"zero_variance", "clipped", "kl"} <= logged[0].keys()
    rewards = [line["reward"] for line in logged]
    assert np.mean(rewards[-10:]) > np.mean(rewards[:4])
    assert udrl.load(run).attributes == ()


def test_grpo_an_interrupted_training_goes_on_to_the_same_weights(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, started = runs
    whole, cut = shutil.copytree(bare, tmp_path / "whole"), shutil.copytree(bare, tmp_path / "cut")
    given: dict[str, Any] = {"start_from": started, "replay": 0.0, **TRL, "steps": 6, "save_every": 2}
    method = Grpo(reward="brevity", group_size=4)
    expected = train(whole, method=method, **given)

    def interrupted(self: Rollout, asked: list[str], trainer: Any) -> dict[str, Any]:
        if trainer.state.global_step == 4:
            raise KeyboardInterrupt
        return real(self, asked, trainer)

    real = Rollout.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Rollout, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(cut, method=method, **given)
    assert not (cut / "student").exists()
    report = train(cut, method=method, **given)
    assert report.reward_calls == expected.reward_calls == 3 * 8
    one, other = weights(whole), weights(cut)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_method_does_not_go_on_with_what_one_has_left(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from udrl.training.methods.hosting import Driver

    bare, started = runs
    run = shutil.copytree(bare, tmp_path / "other")
    given: dict[str, Any] = {"start_from": started, "replay": 0.0, **TRL, "save_every": 1}
    starts: list[int] = []
    real = Driver.after

    def after(self: Driver, step: int, figures: Any, *, takes_up: bool) -> None:
        starts.append(self.start)
        real(self, step, figures, takes_up=takes_up)
        if step == 2 and len(starts) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Driver, "after", after)
    with pytest.raises(KeyboardInterrupt):
        train(run, method=Dpo(reward="brevity"), **given)
    with pytest.raises(StudentError, match="--restart"):
        train(run, method=Dpo(reward="brevity", beta=0.2), **given)
    train(run, method=Dpo(reward="brevity", beta=0.2), restart=True, **given)
    assert starts == [0] * 6  # two steps, then all four from the beginning


class Flat:
    """Pays one group everything and the others by their length."""

    name, low, high, unit = "flat", 0.0, 1.0, ""

    def __init__(self, flat: str) -> None:
        self.flat = flat

    def __call__(self, inputs: Any, completions: Any) -> list[float]:
        paid = brevity(inputs, completions)
        return [
            1.0 if text == self.flat else p + k * 1e-4 for k, (text, p) in enumerate(zip(inputs, paid, strict=True))
        ]


@pytest.mark.parametrize("dynamic", [False, True])
def test_grpo_replaces_groups_without_a_difference_where_asked_to(dynamic: bool) -> None:
    student = new_student().eval()
    tokenizer = train_tokenizer(["a b"], 270)
    tokenizer.eos_token_id = 0
    prompts = [Prompt("t", text, [5 + k, *student.space.render("t", {})]) for k, text in enumerate("abc")]
    watch = Watch(Grpo())
    method = Grpo(group_size=3, dynamic_sampling=dynamic)
    author = Author(student, tokenizer, max_tokens=6, dtype=torch.float32)
    rollout = Rollout(method, prompts, Payment(((Flat("a"), 1.0),)), author, watch, seed=3)

    class Trainer:
        class state:  # noqa: N801 - TRL's name
            global_step = 0

    with hosted(student):
        found = rollout(["0"] * 3 + ["1"] * 3, Trainer)
        written, watch.scored, rollout.limit = watch.scored, 0, 8
        limited = rollout(["0"] * 3 + ["1"] * 3, Trainer)
        assert watch.scored == 6, "two more are allowed, and a group has three"
        assert len(set(limited["paid"][:3])) == 1
        watch.scored = written
    groups = [found["paid"][:3], found["paid"][3:]]
    assert found["flat"] == [0.5] * 6  # what was written first, not what stayed
    assert all(len(row) <= 6 and max(row) < BASE for row in found["completion_ids"])
    assert (len(set(groups[0])) == 1) is not dynamic
    if dynamic:
        assert 9 <= watch.scored <= 6 + 3 * REDRAWS
        assert found["prompt_ids"][0] in (prompts[1].ids, prompts[2].ids)
    else:
        assert watch.scored == 6


def test_grpo_of_a_column_or_of_uneven_groups_is_wrong_usage(runs: tuple[Path, Path], tmp_path: Path) -> None:
    bare, started = runs
    run = shutil.copytree(bare, tmp_path / "wrong")
    given: dict[str, Any] = {"start_from": started, **TRL}
    with pytest.raises(UsageError, match="'clicks' cannot be computed for new completions"):
        train(run, method=Grpo(reward="clicks"), **given)
    with pytest.raises(UsageError, match="does not consist of groups of 3: use --batch-size 9"):
        train(run, method=Grpo(reward="brevity", group_size=3), **given)
    with pytest.raises(UsageError, match="does not divide a batch of 8 evenly"):
        train(run, method=Dpo(reward="brevity"), **given, micro_batch=3)
    with pytest.raises(UsageError, match="--lora is not for --method dpo"):
        train(run, method=Dpo(reward="brevity"), **given, lora=2)
    with pytest.raises(StudentError, match="there is no student at"):
        train(run, method="dpo", **{**given, "start_from": tmp_path})
    assert load_reward("methods_run:brevity").name == "brevity"
