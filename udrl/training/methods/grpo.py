"""GRPO by TRL's GRPOTrainer: the student writes, the run's own reward scores, groups are compared within an input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from udrl.arguments import fitting_seed
from udrl.data.episode import Episode
from udrl.data.hashing import hash_int
from udrl.errors import UsageError
from udrl.training.examples import training_order
from udrl.training.methods import Grpo
from udrl.training.methods.hosting import Driver, TrlWork, hosted
from udrl.training.methods.payment import Paid, Payment, mean_paid
from udrl.training.methods.watch import Watch
from udrl.training.methods.writing import Author, Prompt
from udrl.training.validation import Validation

REDRAWS = 4
"""How often groups without a difference are replaced before they are taken as they are."""
FLAT = 1e-9
"""Rewards that differ by no more are one reward."""
FIGURES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "clipped",
    "zero_variance": "zero_variance",
    "unscored": "unscored",
    "kl": "kl",
}
"""TRL's figures that are logged, and those that the rollout adds to them; it also adds each of several rewards."""


@dataclass(frozen=True)
class Group:
    """The completions of one prompt, their ids with the end token where it came, and what each was paid.

    paid: None where a completion cannot be scored. parts: each completion's values of the rewards, by name.
    """

    prompt: Prompt
    written: list[list[int]]
    paid: list[Paid]
    parts: list[dict[str, Paid]]

    @property
    def told(self) -> list[float]:
        """What TRL is told: a completion that is not scored gets its group's mean, from which it learns nothing."""
        mean = mean_paid(self.paid, 0.0)
        return [mean if value is None else value for value in self.paid]

    @property
    def flat(self) -> bool:
        """Whether all were paid the same."""
        return max(self.told) - min(self.told) <= FLAT


class Rollout:
    """What TRL calls for completions. It counts every reward call, and replaces flat groups where that is asked for."""

    def __init__(
        self,
        method: Grpo,
        prompts: Sequence[Prompt],
        payment: Payment,
        author: Author,
        watch: Watch,
        *,
        seed: int,
        start: int = 0,
        limit: int | None = None,
    ) -> None:
        """Write for ``prompts``; start: steps that were done before; limit: completions that may be written in all."""
        self.method, self.prompts, self.payment, self.author, self.watch = method, prompts, payment, author, watch
        self.seed, self.start, self.limit = seed, start, limit

    def __call__(self, asked: list[str], trainer: Any) -> dict[str, Any]:
        """Return ids, log-probabilities (TRL computes them) and rewards; ``asked``: each prompt's number, repeated."""
        step = self.start + int(trainer.state.global_step)
        torch.manual_seed(hash_int("grpo", self.seed, step, bits=31))  # TRL shuffles what it gets
        rng = np.random.default_rng([self.seed, step])
        groups = self.write([int(number) for number in asked[:: self.method.group_size]], rng)
        flat = sum(group.flat for group in groups) / len(groups)
        if self.method.dynamic_sampling:
            for _ in range(REDRAWS):
                flat_ones = [index for index, group in enumerate(groups) if group.flat]
                if self.limit is not None:
                    flat_ones = flat_ones[: max(0, self.limit - self.watch.scored) // self.method.group_size]
                if not flat_ones:
                    break
                drawn = self.write(rng.integers(len(self.prompts), size=len(flat_ones)).tolist(), rng)
                for index, group in zip(flat_ones, drawn, strict=True):
                    groups[index] = group
        members = [(group, index) for group in groups for index in range(self.method.group_size)]
        return {
            "prompt_ids": [group.prompt.ids for group, _ in members],
            "completion_ids": [group.written[index] for group, index in members],
            "logprobs": None,
            "paid": [group.told[index] for group, index in members],
            "parts": [group.parts[index] for group, index in members],
            "flat": [flat] * len(members),
            "unscored": [fmean(group.paid[index] is None for group, index in members)] * len(members),
        }

    def write(self, numbers: Sequence[int], rng: np.random.Generator) -> list[Group]:
        """Let the student write a group for each of the prompts with these ``numbers``, and score it."""
        size = self.method.group_size
        prompts = [self.prompts[number] for number in numbers]
        seeds = rng.integers(2**63, size=len(prompts) * size).tolist()
        written = self.author.write([p for p in prompts for _ in range(size)], seeds, self.method.temperature)
        rows = [one.ids if one.end is None else [*one.ids, one.end] for one in written]
        texts = [self.author.text(one) for one in written]
        paid, values = self.payment([p.text for p in prompts for _ in range(size)], texts)
        parts = [{name: of[k] for name, of in values.items()} for k in range(len(paid))]
        self.watch.scored += len(paid)
        return [
            Group(prompt, rows[first : first + size], paid[first : first + size], parts[first : first + size])
            for prompt, first in zip(prompts, range(0, len(paid), size), strict=True)
        ]


def paid(
    *,
    paid: list[float],
    parts: list[dict[str, Paid]],
    flat: list[float],
    unscored: list[float],
    log_metric: Any,
    **_: Any,
) -> list[float]:
    """Hand TRL the rewards that the rollout has computed."""
    log_metric("zero_variance", flat[0])
    if unscored[0]:
        log_metric("unscored", unscored[0])
    for name in parts[0] if len(parts[0]) > 1 else ():
        if known := [value for part in parts if (value := part[name]) is not None]:
            log_metric(f"reward_{name}", fmean(known))
    return paid


def run_grpo(method: Grpo, episodes: Sequence[Episode], payment: Payment, work: TrlWork) -> list[Validation]:
    """Train the student on the inputs of ``episodes`` in place and return the validations.

    The batch is counted in completions, each of which ``payment`` pays.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer, options = work.prepared.learner.tokenizer, work.options
    if options.batch_size % method.group_size:
        raise UsageError(
            f"a batch of {options.batch_size} completions does not consist of groups of {method.group_size}: use "
            f"--batch-size {-(-options.batch_size // method.group_size) * method.group_size}"
        )
    groups = options.batch_size // method.group_size
    prompts = work.prompts(episodes)
    rounds = -(-options.steps // method.updates)
    order = training_order(
        [p.task for p in prompts], count=rounds * groups, temperature=options.task_temperature, seed=options.seed
    )
    with hosted(work.prepared.learner.model) as model:
        reference = copy.deepcopy(model).eval()
        driver = work.driver()
        done = min(driver.start // method.updates, rounds - 1)
        trainer = GRPOTrainer(
            model,
            reward_funcs=[paid],
            args=GRPOConfig(
                beta=0.0,
                num_generations=method.group_size,
                num_iterations=method.updates,
                epsilon=method.clip,
                epsilon_high=method.clip_high,
                temperature=method.temperature,
                max_completion_length=work.max_tokens,
                shuffle_dataset=False,
                **driver.arguments(),
            ),
            train_dataset=Dataset.from_list([{"prompt": str(number)} for number in order[done * groups :].tolist()]),
            processing_class=tokenizer,
            rollout_func=_rollout(method, prompts, payment, work, driver),
            optimizers=driver.optimizers(),
        )
        if method.kl:
            _hold(trainer, reference, method)
        by_reward = {f"reward_{reward.name}": f"reward_{reward.name}" for reward, _ in payment.parts}
        return driver.run(trainer, {**FIGURES, **by_reward}, every=method.updates)


def _rollout(method: Grpo, prompts: Sequence[Prompt], payment: Payment, work: TrlWork, driver: Driver) -> Rollout:
    return Rollout(
        method,
        prompts,
        payment,
        work.author,
        driver.watch,
        seed=fitting_seed(work.options.seed, bits=32),
        start=driver.start,
        limit=driver.meter.limits.samples,
    )


def _hold(trainer: Any, reference: Any, method: Grpo) -> None:
    """Hold what ``trainer`` trains to ``reference``; TRL itself would load one by its name from a disk."""
    from trl.trainer.utils import add_fused_lm_head

    reference.requires_grad_(False)
    add_fused_lm_head(reference, temperature=method.temperature)
    trainer.ref_model = trainer.accelerator.prepare_model(reference, evaluation_mode=True)
    trainer.beta = method.kl
