"""A run of a few made-up episodes and a tiny model, for tests of the training methods: no teacher, no encoder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.data.episode import Episode
from udrl.data.episodes import write_episodes
from udrl.data.facts import RewardFacts, ScoreFacts
from udrl.data.run import Run
from udrl.tokenizer import train_tokenizer
from udrl.training.train import train

TASKS = ("poem", "query")
INPUTS = [f"a {colour} {thing}" for colour in ("red", "old", "calm", "tall") for thing in ("fox", "ship", "lake")]
WORDS = "in the snow at dawn with soft light and long shadows".split()
SMALL: dict[str, Any] = {
    "steps": 2, "batch_size": 8, "learning_rate": 1e-3, "calibration_inputs": 0, "signs_inputs": 0, "device": "cpu",
    "precision": "fp32",
}  # fmt: skip


def brevity(inputs: list[str], completions: list[str]) -> list[float]:
    return [1 / (1 + len(text.split())) for text in completions]


def episodes_of(*, seed: int, samples: int = 4) -> list[Episode]:
    """Several completions of each input, the first of them derived once more; relevance is random."""
    rng = np.random.default_rng(seed)
    found = []
    for task in TASKS:
        for number, text in enumerate(INPUTS):
            split = "train" if number < len(INPUTS) - 2 else "validation"
            for sample in range(samples + 1):
                derived = sample == samples
                completion = " ".join([text, *WORDS[: 1 if derived else int(rng.integers(1, len(WORDS)))]])
                found.append(
                    Episode(
                        episode_id=f"{task}-{number}-{sample}", task=task, input_id=text, input=text,
                        completion=completion, horizon=len(completion.split()),
                        origin="truncated" if derived else "teacher", teacher="made-up", sampling="{}", seed=sample,
                        split=split, returns={  # type: ignore[arg-type]
                            "brevity": brevity([text], [completion])[0], "relevance": float(rng.random()),
                        },
                    )
                )  # fmt: skip
    return found


def methods_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """Write the run and a model of two layers; the reward ``brevity`` can be computed, as ``methods_run:brevity``."""
    monkeypatch.setattr(brevity, "low", 0.0, raising=False)
    monkeypatch.setattr(brevity, "high", 1.0, raising=False)
    run, tiny = Run(folder / "run"), folder / "tiny"
    episodes = episodes_of(seed=1)
    with run.writing():
        write_episodes(run.episodes, episodes, reward_names=("brevity", "relevance"))
        rewards = (
            RewardFacts("brevity", 0.0, 1.0, source="methods_run:brevity"),
            RewardFacts("relevance", 0.0, 1.0, source="column"),
        )
        run.record(ScoreFacts(rewards=rewards))
    tokenizer = train_tokenizer([e.completion for e in episodes], 320)
    model = scratch_gpt2(
        vocab_size=320, layers=2, width=32, heads=2, context=64, eos=tokenizer.eos_token_id, seed=0, copying=False
    )
    model.save_pretrained(tiny)
    tokenizer.save_pretrained(tiny)
    return run.path, str(tiny)


def import_trl() -> None:
    """Import TRL without the folder of the tests on the path: it would take the folder vllm in it for the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [path for path in sys.path if Path(path) != Path(__file__).parents[1]])
        import trl.trainer.grpo_trainer  # noqa: F401


def started_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Write a run without and one with a student of a little SFT."""
    bare, tiny = methods_run(folder, monkeypatch)
    started = bare.with_name("started")
    shutil.copytree(bare, started)
    train(started, method="sft", student=tiny, **{**SMALL, "steps": 40, "batch_size": 16, "learning_rate": 4e-3})
    return bare, started
