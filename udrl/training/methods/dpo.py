"""DPO by TRL's DPOTrainer, on pairs of the run's own completions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from udrl.commands import CommandSpace
from udrl.errors import StudentError
from udrl.tokenizer import encode
from udrl.training.examples import training_order
from udrl.training.methods import Dpo
from udrl.training.methods.hosting import TrlWork, hosted, id_text, id_tokenizer
from udrl.training.methods.method_data import Pair
from udrl.training.validation import Validation

FIGURES = {
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen_change",
}
"""TRL's figures that are logged. Its rewards are beta times the change of a completion's log-likelihood."""


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: Any, space: CommandSpace, *, context: int
) -> tuple[list[str], list[dict[str, str]]]:
    """Return the task of each pair, and its prompt with every attribute open, chosen and rejected ids as id texts.

    The end token closes every completion. What is too long for ``context`` is treated as `make_examples` does.
    """
    inputs = encode(tokenizer, [pair.chosen.input for pair in pairs])
    chosen = encode(tokenizer, [pair.chosen.completion for pair in pairs])
    rejected = encode(tokenizer, [pair.rejected.completion for pair in pairs])
    end = tokenizer.eos_token_id
    tasks, rows = [], []
    for pair, text, better, worse in zip(pairs, inputs, chosen, rejected, strict=True):
        room = context - space.prompt_size - max(len(better), len(worse)) - 1  # TRL computes the end token's place, too
        if room > 0 and better and worse:
            task = pair.chosen.task
            prompt = space.prompt(text[:room], space.render(task, {}))
            tasks.append(task)
            rows.append(
                {
                    "prompt": id_text(prompt),
                    "chosen": id_text([*better, end]),
                    "rejected": id_text([*worse, end]),
                }
            )
    return tasks, rows


def run_dpo(method: Dpo, pairs: Sequence[Pair], work: TrlWork) -> list[Validation]:
    """Train the student on ``pairs`` in place and return the validations."""
    from datasets import Dataset, disable_progress_bars, enable_progress_bars
    from trl import DPOConfig, DPOTrainer

    learner, options = work.prepared.learner, work.options
    student, tokenizer, space = learner.model, learner.tokenizer, learner.space
    tasks, rows = encode_pairs(pairs, tokenizer, space, context=student.context)
    if not rows:
        raise StudentError(f"no pair fits into the student's context of {student.context} tokens: train another")
    order = training_order(
        tasks, count=options.steps * options.batch_size, temperature=options.task_temperature, seed=options.seed
    )
    with hosted(student) as model:
        reference = copy.deepcopy(model).eval()
        driver = work.driver()
        left = order[driver.start * options.batch_size :] if driver.start < options.steps else order[:1]
        disable_progress_bars()
        try:
            trainer = DPOTrainer(
                model,
                ref_model=reference,
                args=DPOConfig(
                    beta=method.strength,
                    loss_type=["sigmoid_norm" if method.length_normalised else "sigmoid"],
                    max_length=None,
                    train_sampling_strategy="sequential",
                    **driver.arguments(),
                ),
                train_dataset=Dataset.from_list([rows[i] for i in left.tolist()]),
                processing_class=id_tokenizer(space.base + space.size, tokenizer.eos_token_id),
                optimizers=driver.optimizers(),
            )
        finally:
            enable_progress_bars()
        return driver.run(trainer, FIGURES, scale={"chosen_change": 1 / method.strength})
