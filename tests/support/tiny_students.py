"""A student of two blocks and examples of random ids, for tests of the training loop; and what two processes do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiny_families
import torch

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import Attribute, CommandSpace
from udrl.student.network import StudentModel
from udrl.training.checkpoint import STATE
from udrl.training.examples import Examples
from udrl.training.freeze import freeze
from udrl.training.loop import run_loop
from udrl.training.lora import add_lora
from udrl.training.options import LoopOptions
from udrl.training.ranks import joined
from udrl.training.validation import Validation

BASE = 80


def comparable(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out the keys' biases: they change nothing, and their gradient is rounding, which AdamW blows up."""
    made = {n: t.clone() for n, t in state.items()}
    for name, tensor in made.items():
        if name.endswith("c_attn.bias"):
            tensor[len(tensor) // 3 : 2 * len(tensor) // 3] = 0
    return made


def space() -> CommandSpace:
    rng = np.random.default_rng(0)
    values = {"t": {"relevance": rng.random(600).tolist(), "length": rng.integers(3, 40, 600).tolist()}}
    return CommandSpace.fit(BASE, (Attribute("relevance", 0, 1), Attribute("length", 1, 1000, "words")), values)


def new_student(dropout: float = 0.0) -> StudentModel:
    model = scratch_gpt2(vocab_size=BASE, layers=2, width=24, heads=2, context=64, eos=0, seed=1, copying=False)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    model.config.embd_pdrop = model.config.resid_pdrop = dropout
    torch.manual_seed(0)
    return StudentModel(model, space())


def examples(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(
        ("t",) * count,
        [rng.integers(1, BASE, rng.integers(1, 15)).tolist() for _ in range(count)],
        [[*rng.integers(1, BASE, rng.integers(1, 20)).tolist(), 0] for _ in range(count)],
        [{"relevance": float(rng.uniform(0, 9)), "length": float(rng.uniform(0, 9))} for _ in range(count)],
    )


def options(**changed: Any) -> LoopOptions:
    return LoopOptions(**{"steps": 6, "batch_size": 7, "micro_batch": 7, "validate_every": 2, "seed": 3, **changed})


def fit(
    made: LoopOptions, *, dropout: float = 0.0, lora: int = 0, family: str = "", frozen: int = 0, **more: Any
) -> tuple[dict[str, torch.Tensor], list[Validation]]:
    """Train `new_student`, or one of ``family``, whose lowest blocks are ``frozen``; return weights and validations."""
    student = tiny_families.new_student(family) if family else new_student(dropout)
    if frozen:
        freeze(student, frozen)
    if lora:
        add_lora(student, lora)
    found = run_loop(student, examples(40), made, dtype=torch.float32, **{"validation": examples(20, seed=1), **more})
    return {n: t.clone() for n, t in student.state_dict().items()}, found


CASES: dict[str, dict[str, Any]] = {
    "copies": {"micro_batch": 3},
    "shards": {"micro_batch": 2, "checkpointing": True},
    "shards with lora": {"learning_rate": 0.01},
    "shards of llama": {"micro_batch": 2, "checkpointing": True},
    "shards of frozen llama": {"micro_batch": 3},
}


def shared(case: str) -> LoopOptions:
    """Options of a training that two processes can share."""
    return options(batch_size=8, save_every=1, keep="best", patience=5, **CASES.get(case, {}))


def fit_in(folder: Path, case: str, **more: Any) -> None:
    """Train in ``folder``; the state after two steps and the result are kept there."""
    folder.mkdir(exist_ok=True)
    losses = []

    def log(step: int, figures: Mapping[str, float]) -> None:
        losses.extend([figures["loss"]] if "loss" in figures else [])
        if step == 2 and "loss" in figures and not (folder / "after2.pt").exists():
            shutil.copy(folder / STATE, folder / "after2.pt")

    kind: dict[str, Any] = {"lora": 4 * ("lora" in case), "family": "llama" * ("llama" in case)}
    weights, validations = fit(
        shared(case), **kind, frozen=int("frozen" in case), state_file=folder / STATE, log=log, **more
    )
    if losses:  # the first process, which alone logs and has the student
        torch.save({"weights": weights, "losses": losses, "validations": validations}, folder / "made.pt")


if __name__ == "__main__":  # one of two processes
    place = Path(sys.argv[1])
    with joined() as rank:
        for name in CASES:
            fit_in(place / name, name, group=rank, shard="shards" in name)
            fit_in(place / f"{name} resumed", name, group=rank, shard="shards" in name)
