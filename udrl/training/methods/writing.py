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
from udrl.tokenizer import decode, encode
from udrl.training.methods.payment import Payment, mean_paid
from udrl.training.methods.watch import Watch

JUDGED = 128
"""Validation inputs that the student is judged on, of all tasks together: a share has a standard error up to 0.044."""
CHUNK = 64


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
    found = list({(e.task, e.input): None for e in episodes})
    room = max(1, context - space.prompt_size - max_tokens)
    return [
        Prompt(task, text, space.prompt(ids[:room], space.render(task, {})))
        for (task, text), ids in zip(found, encode(tokenizer, [text for _, text in found]), strict=True)
    ]


def write(
    model: Any, prompts: Sequence[Prompt], end: int, *, each: int, max_tokens: int, temperature: float
) -> list[list[int]]:
    """Return ``each`` completions of every prompt as ids, with the end id where it came; temperature 0: greedily."""
    from transformers import GenerationConfig

    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), end)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, longest - len(prompt.ids) :] = 1
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    training = model.training
    model.eval()
    with torch.no_grad():
        found = model.generate(
            input_ids=ids.repeat_interleave(each, 0).to(model.device),
            attention_mask=mask.repeat_interleave(each, 0).to(model.device),
            generation_config=GenerationConfig(
                **sampling, max_new_tokens=max_tokens, eos_token_id=end, pad_token_id=end
            ),
        )
    model.train(training)
    return [row[: row.index(end) + 1] if end in row else row for row in found[:, longest:].tolist()]


def text_of(ids: list[int], tokenizer: Any) -> str:
    """Return a completion's text; half a character at the end of one that was cut is left out."""
    ended = bool(ids) and ids[-1] == tokenizer.eos_token_id
    text = decode(tokenizer, ids[:-1] if ended else ids)
    return text if ended else text.rstrip("\ufffd")


class Judge:
    """Scores what the student writes greedily for validation inputs: which step's weights are the best."""

    def __init__(
        self, model: Any, prompts: Sequence[Prompt], payment: Payment, tokenizer: Any, watch: Watch, *, max_tokens: int,
        seed: int,
    ) -> None:  # fmt: skip
        """Judge ``model`` on up to `JUDGED` of ``prompts``, of all tasks and difficulties as they come by chance."""
        chosen = np.random.default_rng(seed).permutation(len(prompts))[:JUDGED].tolist()
        self.prompts = sorted((prompts[i] for i in chosen), key=lambda prompt: len(prompt.ids))
        self.model, self.payment, self.tokenizer, self.watch = model, payment, tokenizer, watch
        self.max_tokens = max_tokens

    def __call__(self) -> dict[str, float]:
        """Return the mean payment (``validation_reward``), that of each reward, and the mean length in tokens.

        The means are over what can be scored; where nothing can, they are as low as can be.
        """
        rows: list[list[int]] = []
        for first in range(0, len(self.prompts), CHUNK):
            part = self.prompts[first : first + CHUNK]
            end = self.tokenizer.eos_token_id
            rows += write(self.model, part, end, each=1, max_tokens=self.max_tokens, temperature=0.0)
        texts = [text_of(row, self.tokenizer) for row in rows]
        paid, values = self.payment([prompt.text for prompt in self.prompts], texts)
        self.watch.judged += len(paid)
        unscored = sum(value is None for value in paid)
        lowest = {reward.name: reward.low for reward, _ in self.payment.parts}
        each = {f"validation_{name}": mean_paid(of, lowest[name]) for name, of in values.items()}
        return {
            "validation_reward": mean_paid(paid, self.payment.lowest),
            **({"validation_unscored": unscored / len(paid)} if unscored else {}),
            **(each if len(values) > 1 else {}),
            "validation_length": fmean(map(len, rows)),
        }
