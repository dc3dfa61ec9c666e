"""A commanded student of any family, whose weights are random, and sequences for it."""

from __future__ import annotations

import numpy as np
import torch
from tiny_checkpoints import ROWS, new_model

from udrl.commands import Attribute, CommandSpace
from udrl.student.network import StudentModel


def space() -> CommandSpace:
    rng = np.random.default_rng(0)
    values = {"t": {"relevance": rng.random(600).tolist(), "length": rng.integers(3, 40, 600).tolist()}}
    return CommandSpace.fit(ROWS, (Attribute("relevance", 0, 1), Attribute("length", 1, 1000, "words")), values)


def new_student(family: str) -> StudentModel:
    made = StudentModel(new_model(family), space())
    with torch.no_grad():  # rows that training has changed
        made.rows.weight.add_(torch.randn(made.rows.weight.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return made.eval()


def sequences() -> tuple[list[list[int]], list[list[int]]]:
    rng, made = np.random.default_rng(2), space()
    prompts, completions = [], []
    for size in (9, 4, 14, 0, 7):
        control = made.render("t", {"relevance": float(rng.uniform(0, 9)), "length": float(rng.uniform(0, 9))})
        prompts.append(made.prompt(rng.integers(4, ROWS, size).tolist(), control))
        completions.append([*rng.integers(4, ROWS, rng.integers(2, 9)).tolist(), 0])
    return prompts, completions
