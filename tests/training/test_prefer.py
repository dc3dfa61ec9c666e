"""A reward model from the run's own pairs, and its use as a reward."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from methods_run import INPUTS, SMALL, WORDS, import_trl, started_run

import udrl.cli.main as cli
from udrl.data.run import Run
from udrl.errors import RewardError, StudentError
from udrl.rewards import load_reward
from udrl.rewards.preference import FILE, Preference, pair_ids
from udrl.rewards.protocol import compute
from udrl.training import reward_model
from udrl.training.methods import Grpo
from udrl.training.reward_model import prefer
from udrl.training.train import train


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A run, and a reward model that prefers what is brief."""
    import_trl()
    with pytest.MonkeyPatch.context() as patch:
        bare, started = started_run(tmp_path_factory.mktemp("prefer"), patch)
        arguments = ["--run", str(bare), "--from", str(started), "--by", "brevity", "--steps", "40"]
        assert cli.run(["prefer", *arguments, "--learning-rate", "0.005", "--device", "cpu"]) == 0
        yield bare, started


def test_prefer_tells_which_of_two_is_better_on_inputs_it_has_not_seen(learnt: tuple[Path, Path]) -> None:
    run, _ = learnt
    facts = json.loads((run / "run.json").read_text())["stages"]["prefer"]
    assert facts["by"] == "brevity"
    assert facts["validation_pairs"] > 0
    mean, low, high = facts["accuracy"]
    assert low <= mean <= high
    assert mean >= 0.6
    reward = load_reward(facts["source"])
    texts = [" ".join([INPUTS[-1], *WORDS[:count]]) for count in (1, 5, 11)]
    paid = compute(reward, [INPUTS[-1]] * 3, texts)
    brief, long = ([" ".join([text, *WORDS[:count]]) for text in INPUTS] for count in (1, 11))
    pairs = zip(compute(reward, INPUTS, brief), compute(reward, INPUTS, long), strict=True)
    assert sum(a > b for a, b in pairs) >= 0.8 * len(INPUTS)
    alone = [value for text in texts for value in compute(reward, [INPUTS[-1]], [text])]
    assert alone == pytest.approx(paid, abs=1e-5)  # as in a batch
    assert 0 <= compute(reward, [""], [""])[0] <= 1


def test_prefer_reads_what_looks_like_a_special_token_as_text_and_cuts_the_input_first(
    learnt: tuple[Path, Path],
) -> None:
    reward = Preference(learnt[0] / "preference")
    end = reward.tokenizer.eos_token_id
    (row,) = pair_ids(reward.tokenizer, ["a <|endoftext|> fox"], ["snow <|endoftext|>"], context=64)
    assert end not in row
    (whole,) = pair_ids(reward.tokenizer, ["fox " * 50], ["at dawn"], context=999)
    (cut,) = pair_ids(reward.tokenizer, ["fox " * 50], ["at dawn"], context=16)
    assert len(cut) == 16
    assert cut[-4:] == whole[-4:]


def test_prefer_is_a_reward_that_grpo_pays_by(learnt: tuple[Path, Path], tmp_path: Path) -> None:
    bare, started = learnt
    run = shutil.copytree(bare, tmp_path / "grpo")
    source = f"preference:{bare / 'preference'}"
    method = Grpo(reward={source: 1.0, "brevity": 0.5}, group_size=4)
    report = train(run, start_from=started, replay=0.0, method=method, **SMALL)
    assert report.reward_calls == 8
    lines = [json.loads(line) for line in (run / "student" / "training.jsonl").read_text().splitlines()]
    paid = next(line for line in lines if "reward" in line)
    assert paid["reward"] == pytest.approx(paid["reward_preference"] + 0.5 * paid["reward_brevity"], abs=1e-5)


def test_prefer_that_was_killed_before_it_recorded_is_not_trained_again(
    learnt: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, started = learnt
    run = shutil.copytree(bare, tmp_path / "killed")
    for moment in ("record", "done"):
        with monkeypatch.context() as patch:
            patch.setattr(Run, moment, interrupted)
            with pytest.raises(KeyboardInterrupt):
                prefer(run, start_from=started, by="brevity", steps=1, seed=5)
    # the second call found the first one's model, and was killed as it ended
    weights = (run / "preference" / "model.safetensors").read_bytes()
    assert weights != (bare / "preference" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(reward_model, "_train", interrupted)
        report = prefer(run, start_from=started, by="brevity", steps=1, seed=5)
        assert (run / "preference" / "model.safetensors").read_bytes() == weights
        facts = Run(run).facts().prefer
        assert (report.steps, report.folder, facts.seed) == (1, run / "preference", 5)
        assert report.accuracy == facts.accuracy
        with pytest.raises(KeyboardInterrupt):  # asked for again once it has ended, it is trained again
            prefer(run, start_from=started, by="brevity", steps=1, seed=5)
    assert (run / "preference" / "model.safetensors").read_bytes() == weights


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_prefer_says_what_is_missing(learnt: tuple[Path, Path], tmp_path: Path) -> None:
    bare, started = learnt
    run = shutil.copytree(bare, tmp_path / "wrong")
    with pytest.raises(StudentError, match="no input has two completions whose 'clicks' is"):
        prefer(run, start_from=started, by="clicks")
    with pytest.raises(RewardError, match="holds no reward model"):
        load_reward(f"preference:{tmp_path}")
    file = run / "preference" / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 2}))
    with pytest.raises(RewardError, match="a newer udrl writes"):
        load_reward(f"preference:{run / 'preference'}")
