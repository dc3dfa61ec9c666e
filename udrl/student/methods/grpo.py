"""GRPO by TRL's GRPOTrainer: the student writes, the run's own reward scores, groups are compared within an input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from udrl.commands import CommandSpace
from udrl.data.episodes import Episode
from udrl.data.hashing import hash_int
from udrl.errors import UsageError
from udrl.rewards.base import Reward, compute
from udrl.student.examples import training_order
from udrl.student.methods import Grpo
from udrl.student.methods.hosting import Driver, hosted
from udrl.student.methods.watch import Watch
from udrl.student.tokenizer import decode, encode
from udrl.student.validation import Validation

REDRAWS = 4
"""How often groups without a difference are replaced before they are taken as they are."""
FLAT = 1e-9
"""Rewards that differ by no more are one reward."""
FIGURES = {"reward": "reward", "completions/clipped_ratio": "clipped", "zero_variance": "zero_variance", "kl": "kl"}
"""TRL's figures that are logged, and the one that the rollout adds to them."""


@dataclass(frozen=True)
class Prompt:
    """An input to write for: the text, and its prompt's ids with every attribute open."""

    task: str
    text: str
    ids: list[int]


@dataclass(frozen=True)
class Group:
    """The completions of one prompt, their ids with the end token where it came, and what each was paid."""

    prompt: Prompt
    written: list[list[int]]
    paid: list[float]

    @property
    def flat(self) -> bool:
        """Whether all were paid the same."""
        return max(self.paid) - min(self.paid) <= FLAT


class Rollout:
    """What TRL calls for completions. It counts every reward call, and replaces flat groups where that is asked for."""

    def __init__(
        self,
        method: Grpo,
        prompts: Sequence[Prompt],
        reward: Reward,
        tokenizer: Any,
        watch: Watch,
        *,
        max_tokens: int,
        seed: int,
        start: int = 0,
    ) -> None:
        """Write for ``prompts``; start: steps that were done before."""
        self.method, self.prompts, self.reward, self.tokenizer, self.watch = method, prompts, reward, tokenizer, watch
        self.max_tokens, self.seed, self.start = max_tokens, seed, start

    def __call__(self, asked: list[str], trainer: Any) -> dict[str, Any]:
        """Return ids, log-probabilities (TRL computes them) and rewards; ``asked``: each prompt's number, repeated."""
        step = self.start + int(trainer.state.global_step)
        torch.manual_seed(hash_int("grpo", self.seed, step, bits=31))
        model = trainer.accelerator.unwrap_model(trainer.model)
        groups = self.write(model, [int(number) for number in asked[:: self.method.group_size]])
        flat = sum(group.flat for group in groups) / len(groups)
        if self.method.dynamic_sampling:
            rng = np.random.default_rng([self.seed, step])
            for _ in range(REDRAWS):
                places = [place for place, group in enumerate(groups) if group.flat]
                if not places:
                    break
                drawn = self.write(model, rng.integers(len(self.prompts), size=len(places)).tolist())
                for place, group in zip(places, drawn, strict=True):
                    groups[place] = group
        members = [(group, place) for group in groups for place in range(self.method.group_size)]
        return {
            "prompt_ids": [group.prompt.ids for group, _ in members],
            "completion_ids": [group.written[place] for group, place in members],
            "logprobs": None,
            "paid": [group.paid[place] for group, place in members],
            "flat": [flat] * len(members),
        }

    def write(self, model: Any, numbers: Sequence[int]) -> list[Group]:
        """Let the student write a group for each of the prompts with these ``numbers``, and score it."""
        from transformers import GenerationConfig

        size, end = self.method.group_size, self.tokenizer.eos_token_id
        prompts = [self.prompts[number] for number in numbers]
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), longest), end)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask[row, longest - len(prompt.ids) :] = 1
        training = model.training
        model.eval()
        with torch.no_grad():
            found = model.generate(
                input_ids=ids.repeat_interleave(size, 0).to(model.device),
                attention_mask=mask.repeat_interleave(size, 0).to(model.device),
                generation_config=GenerationConfig(
                    do_sample=True,
                    temperature=self.method.temperature,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=self.max_tokens,
                    eos_token_id=end,
                    pad_token_id=end,
                ),
            )
        model.train(training)
        rows = [row[: row.index(end) + 1] if end in row else row for row in found[:, longest:].tolist()]
        texts = [self._text(row) for row in rows]
        paid = compute(self.reward, [p.text for p in prompts for _ in range(size)], texts)
        self.watch.scored += len(paid)
        return [
            Group(prompt, rows[k * size : (k + 1) * size], paid[k * size : (k + 1) * size])
            for k, prompt in enumerate(prompts)
        ]

    def _text(self, ids: list[int]) -> str:
        ended = ids[-1] == self.tokenizer.eos_token_id
        text = decode(self.tokenizer, ids[:-1] if ended else ids)
        return text if ended else text.rstrip("\ufffd")


def paid(*, paid: list[float], flat: list[float], log_metric: Any, **_: Any) -> list[float]:
    """Hand TRL the rewards that the rollout has computed."""
    log_metric("zero_variance", flat[0])
    return paid


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


def run_grpo(
    method: Grpo,
    episodes: Sequence[Episode],
    tokenizer: Any,
    space: CommandSpace,
    *,
    context: int,
    reward: Reward,
    max_tokens: int,
    **driven: Any,
) -> list[Validation]:
    """Train the student on the inputs of ``episodes`` in place and return the validations.

    max_tokens: most tokens of a completion. driven: what `Driver` takes; the batch is counted in completions.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    student, options = driven["student"], driven["options"]
    if options.batch_size % method.group_size:
        raise UsageError(
            f"a batch of {options.batch_size} completions does not consist of groups of {method.group_size}: use "
            f"--batch-size {-(-options.batch_size // method.group_size) * method.group_size}"
        )
    groups = options.batch_size // method.group_size
    prompts = prompts_of(episodes, tokenizer, space, context=context, max_tokens=max_tokens)
    rounds = -(-options.steps // method.updates)
    order = training_order(
        [p.task for p in prompts], count=rounds * groups, temperature=options.task_temperature, seed=options.seed
    )
    with hosted(student) as model:
        reference = copy.deepcopy(model).eval()
        driver = Driver(**driven)
        done = min(driver.start // method.updates, rounds - 1)
        rollout = Rollout(
            method,
            prompts,
            reward,
            tokenizer,
            driver.watch,
            max_tokens=max_tokens,
            seed=options.seed,
            start=driver.start,
        )
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
                max_completion_length=max_tokens,
                shuffle_dataset=False,
                **driver.arguments(),
            ),
            train_dataset=Dataset.from_list([{"prompt": str(number)} for number in order[done * groups :].tolist()]),
            processing_class=tokenizer,
            rollout_func=rollout,
            optimizers=driver.optimizers(),
        )
        if method.kl:  # TRL would load the reference by its name from a disk
            reference.requires_grad_(False)
            add_fused_lm_head(reference, temperature=method.temperature)
            trainer.ref_model = trainer.accelerator.prepare_model(reference, evaluation_mode=True)
            trainer.beta = method.kl
        return driver.run(trainer, FIGURES, every=method.updates)
