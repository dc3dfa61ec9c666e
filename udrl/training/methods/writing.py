"""What the student writes while TRL trains it: in groups to learn from, and greedily to be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from udrl.commands import CommandSpace
from udrl.data.episode import Episode
from udrl.decoding.loop import decode_batch
from udrl.decoding.requests import Decoded
from udrl.decoding.sampling import EVERY, Sampling
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.tokenizer import decode, encode
from udrl.training.methods.payment import Payment, mean_paid
from udrl.training.methods.watch import Watch

JUDGED = 128
"""Validation inputs that the student is judged on, of all tasks together: a share has a standard error up to 0.044."""
TOGETHER = 128
"""Completions that are written at once."""


@dataclass(frozen=True)
class Prompt:
    """An input to write for: the text, and its prompt's ids with every attribute open."""

    task: str
    text: str
    ids: list[int]


def prompts_of(
    episodes: Sequence[Episode], tokenizer: Any, space: CommandSpace, *, context: int, max_tokens: int
) -> list[Prompt]:
    """Return each task's different inputs as prompts; an input's end is cut where the context asks for it."""
    inputs = list({(e.task, e.input): None for e in episodes})
    room = max(1, context - space.prompt_size - max_tokens)
    return [
        Prompt(task, text, space.prompt(ids[:room], space.render(task, {})))
        for (task, text), ids in zip(inputs, encode(tokenizer, [text for _, text in inputs]), strict=True)
    ]


class Author:
    """The student as it writes while it is trained: with the weights of the moment, ended by any of its ends."""

    def __init__(self, student: StudentModel, tokenizer: Any, *, max_tokens: int, dtype: torch.dtype) -> None:
        """Write at most ``max_tokens`` tokens a completion; matrix products in ``dtype``."""
        self.student, self.tokenizer, self.max_tokens, self.dtype = student, tokenizer, max_tokens, dtype

    def write(self, prompts: Sequence[Prompt], seeds: Sequence[int], temperature: float) -> list[Decoded]:
        """Return a completion of every prompt, each by its own seed; temperature 0: greedily, else of all tokens."""
        training = self.student.model.training
        try:
            [end, *others] = self.student.ends
            return decode_batch(
                TorchEngine(self.student, self.dtype),
                [prompt.ids for prompt in prompts],
                seeds,
                sampling=Sampling(temperature=temperature, top_p=1.0, top_k=EVERY),
                limits=[self.max_tokens] * len(prompts),
                end=end,
                others=others,
                most=TOGETHER,
            )
        finally:
            self.student.train(training)

    def text(self, one: Decoded) -> str:
        """Return a completion's text; half a character at the end of one that was cut is left out."""
        text = decode(self.tokenizer, one.ids)
        return text if one.stopped else text.rstrip("\ufffd")


class Judge:
    """Scores what the student writes greedily for validation inputs: which step's weights are the best."""

    def __init__(self, author: Author, prompts: Sequence[Prompt], payment: Payment, watch: Watch, *, seed: int) -> None:
        """Judge ``author`` on up to `JUDGED` of ``prompts``, of all tasks and difficulties as they come by chance."""
        chosen = np.random.default_rng(seed).permutation(len(prompts))[:JUDGED].tolist()
        self.prompts = sorted((prompts[i] for i in chosen), key=lambda prompt: len(prompt.ids))
        self.author, self.payment, self.watch = author, payment, watch

    def __call__(self) -> dict[str, float]:
        """Return the mean payment (``validation_reward``), that of each reward, and the mean length in tokens.

        The means are over what can be scored; where nothing can, they are as low as can be.
        """
        written = self.author.write(self.prompts, [0] * len(self.prompts), temperature=0.0)
        texts = [self.author.text(one) for one in written]
        paid, values = self.payment([prompt.text for prompt in self.prompts], texts)
        self.watch.judged += len(paid)
        unscored = sum(value is None for value in paid)
        lowest = {reward.name: reward.low for reward, _ in self.payment.parts}
        each = {f"validation_{name}": mean_paid(of, lowest[name]) for name, of in values.items()}
        return {
            "validation_reward": mean_paid(paid, self.payment.lowest),
            **({"validation_unscored": unscored / len(paid)} if unscored else {}),
            **(each if len(values) > 1 else {}),
            "validation_length": fmean(len(one.ids) + one.stopped for one in written),
        }
