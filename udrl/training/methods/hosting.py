"""A student as a model that TRL's trainers can train, and what drives them: optimiser, order, figures, state.

TRL sees an ordinary causal language model whose input embedding also knows control ids and whose head predicts text
ids alone, as in our own loop. An interrupted training goes on from the last saved step: what is left of the order is
given to a new trainer, with the optimiser's state and the learning rates of those steps.
"""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from udrl.architecture.any import takes_positions
from udrl.errors import Diverged, StudentError, UsageError
from udrl.student.network import CommandEmbedding, StudentModel
from udrl.training.cost import Limits, Meter
from udrl.training.examples import Examples
from udrl.training.loop import BEST, Log, load_state, save_state
from udrl.training.methods.watch import Watch
from udrl.training.methods.writing import Author, Judge, Prompt, prompts_of
from udrl.training.options import LoopOptions, make_optimizer, rate, share
from udrl.training.validation import Validation, best_of, validate

if TYPE_CHECKING:
    from udrl.data.episode import Episode
    from udrl.training.methods.payment import Payment
    from udrl.training.prepare import Prepared

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # GRPO's rollout_func may change: setup.cfg pins the version


@contextmanager
def hosted(student: StudentModel) -> Iterator[Any]:
    """Within: the student's language model, reading control ids; what trainers change in it is undone after."""
    model = student.model
    text, generation = model.get_input_embeddings(), model.generation_config
    ids = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.set_input_embeddings(CommandEmbedding(text, student.rows, student.space.base))
    model.generation_config = copy.deepcopy(generation)
    model.generation_config.eos_token_id = student.ends  # by which TRL tells who was cut
    hook = model.base_model.register_forward_pre_hook(_count_positions, with_kwargs=True)
    try:
        with warnings.catch_warnings():
            # of settings that TRL and transformers rename among themselves
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl)\.")
            yield model
    finally:
        hook.remove()
        for name in ("forward", "_original_forward", "model_tags"):
            model.__dict__.pop(name, None)
        model.set_input_embeddings(text)
        model.generation_config = generation
        for name, value in ids.items():
            setattr(model.config, name, value)


def _count_positions(module: nn.Module, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Count positions from each row's first real id: GRPOTrainer pads on the left and gives GPT-2 no positions."""
    mask = named.get("attention_mask")
    if not takes_positions(module):  # it counts by the mask itself
        return arguments, named
    if named.get("position_ids") is None and mask is not None and mask.ndim == 2 and not named.get("past_key_values"):
        named["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return arguments, named


def id_text(ids: list[int]) -> str:
    """Return ids as a text that `id_tokenizer` reads: no text of a user's ever is one of its tokens."""
    return "".join(f" <{one}>" for one in ids)


def id_tokenizer(size: int, end: int) -> Any:
    """Return a tokenizer of the texts `id_text` makes of ids under ``size``: TRL's DPOTrainer takes texts alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({f"<{one}>": one for one in range(size)}, unk_token=f"<{end}>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    token = f"<{end}>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=token, pad_token=token, padding_side="left")


@dataclass(frozen=True)
class TrlWork:
    """What each of TRL's trainers is given.

    watch, log: take the figures of every step; meter: what may end the training. validation_episodes: those on whose
    inputs the student is judged, by ``payment`` (None: it is not), with at most ``max_tokens`` a completion.
    """

    prepared: Prepared
    watch: Watch
    log: Log
    meter: Meter
    max_tokens: int
    validation_episodes: Sequence[Episode]
    payment: Payment | None = None

    @property
    def options(self) -> LoopOptions:
        """How the steps are made."""
        return self.prepared.plan.loop

    def prompts(self, episodes: Sequence[Episode]) -> list[Prompt]:
        """Return what the student writes for the inputs of ``episodes`` from."""
        learner = self.prepared.learner
        return prompts_of(
            episodes, learner.tokenizer, learner.space, context=learner.model.context, max_tokens=self.max_tokens
        )

    @property
    def author(self) -> Author:
        """The student as it writes in between."""
        prepared = self.prepared
        learner = prepared.learner
        return Author(learner.model, learner.tokenizer, max_tokens=self.max_tokens, dtype=prepared.dtype)

    def driver(self) -> Driver:
        """Return what drives a trainer of the student, within `hosted`, and judges it where it is paid."""
        prepared = self.prepared
        driver = Driver(
            prepared.learner.model,
            self.options,
            dtype=prepared.dtype,
            validation=prepared.validation,
            watch=self.watch,
            log=self.log,
            state_file=prepared.state_file,
            fingerprint=prepared.fingerprint,
            meter=self.meter,
        )
        unseen = [] if self.payment is None else self.prompts(self.validation_episodes)
        if self.payment is not None and unseen:
            driver.judge = Judge(self.author, unseen, self.payment, self.watch, seed=self.options.seed)
        return driver


class Driver:
    """Drives one of TRL's trainers through a training. start: steps that an interrupted call has done."""

    def __init__(
        self,
        student: StudentModel,
        options: LoopOptions,
        *,
        dtype: torch.dtype,
        validation: Examples,
        watch: Watch,
        log: Log,
        state_file: Path,
        fingerprint: str,
        meter: Meter | None = None,
    ) -> None:
        """Make the optimiser, and take up what an interrupted call has left. Within `hosted`.

        meter: what may end the training early. Set ``judge`` to have the weights judged at every validation.
        """
        self.student, self.options, self.dtype, self.validation = student, options, dtype, validation
        self.meter = meter or Meter(Limits())
        self.judge: Callable[[], Mapping[str, float]] | None = None
        self._best = state_file.with_name(BEST)
        self.watch, self.log, self.state_file, self.fingerprint = watch, log, state_file, fingerprint
        self.validations: list[Validation] = []
        self.optimizer = make_optimizer(student, options)
        self.start = 0
        saved = load_state(state_file, fingerprint)
        if saved is not None:
            self.start = saved["step"]
            self.validations = [Validation(*v) for v in saved["validations"]]
            watch.scored, watch.judged = saved["scored"], saved.get("judged", 0)
            watch.recall(saved.get("watched", {}))
            student.load_state_dict(saved["student"])
            self.optimizer.load_state_dict(saved["optimizer"])
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"]
        self._kept = self.start
        # a training that a limit has ended is not gone on with, unless the limit was raised
        self._over = saved is not None and bool(saved.get("ended")) and self._ends(self.start, takes_up=True)
        student.train()

    def optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """Return the optimiser and the learning rates from ``start`` on, those of our own loop."""

        def of_peak(step: int) -> float:
            return share(min(self.start + step, self.options.steps - 1), self.options)

        return self.optimizer, torch.optim.lr_scheduler.LambdaLR(self.optimizer, of_peak)

    def arguments(self) -> dict[str, Any]:
        """Return what the arguments of both trainers have in common."""
        options, device = self.options, self.student.rows.weight.device
        if device.type == "cuda" and torch.cuda.device_count() > 1:
            raise StudentError(
                f"TRL would train on all {torch.cuda.device_count()} GPUs that it sees: make one visible, with "
                "CUDA_VISIBLE_DEVICES=0"
            )
        if options.batch_size % options.micro_batch:
            raise UsageError(
                f"--micro-batch {options.micro_batch} does not divide a batch of {options.batch_size} evenly, as TRL "
                "needs it: choose another"
            )
        return {
            "output_dir": str(self.state_file.with_name("trl")),
            "max_steps": options.steps - self.start,
            "per_device_train_batch_size": options.micro_batch,
            "gradient_accumulation_steps": options.batch_size // options.micro_batch,
            "max_grad_norm": options.clip,
            "gradient_checkpointing": options.checkpointing,
            "bf16": self.dtype == torch.bfloat16,
            "use_cpu": device.type == "cpu",
            "seed": options.seed,
            "disable_dropout": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }

    def run(
        self, trainer: Any, figures: Mapping[str, str], *, scale: Mapping[str, float] | None = None, every: int = 1
    ) -> list[Validation]:
        """Train and return the validations.

        figures: TRL's names of what is logged besides the loss, and ours. scale: what they are multiplied by.
        every: only after so many steps can a training be taken up again.
        """
        from transformers import PrinterCallback, TrainerCallback

        driver, began = self, {"seconds": 0.0, "tokens": 0.0}

        class Steps(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                began["seconds"] = time.perf_counter()

            def on_log(self, _: Any, state: Any, control: Any, logs: Mapping[str, float], **__: Any) -> None:
                if "loss" not in logs:  # what TRL says in the end
                    return
                step = driver.start + state.global_step
                tokens = float(logs.get("num_tokens", began["tokens"]))  # GRPO counts what it generates
                measured = {
                    "loss": float(logs["loss"]),
                    "gradient_norm": float(logs["grad_norm"]),
                    "learning_rate": rate(step - 1, driver.options),
                    "tokens": tokens - began["tokens"],
                    "seconds": time.perf_counter() - began["seconds"],
                    **{
                        ours: float(logs[theirs]) * (scale or {}).get(ours, 1.0)
                        for theirs, ours in figures.items()
                        if theirs in logs
                    },
                }
                began["tokens"] = tokens
                driver.after(step, measured, takes_up=step % every == 0)
                control.should_training_stop |= driver.meter.ended is not None

        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Steps())
        if self.judge is not None and not self.validations and self.start == 0:
            self._validate(0)
        if self.start < self.options.steps and not self._over:
            try:
                trainer.train()
            except torch.OutOfMemoryError as error:
                raise StudentError(
                    f"out of memory with {self.options.micro_batch} items at once: lower --micro-batch"
                ) from error
        if self.judge is not None and self.options.keep == "best":
            best = torch.load(self._best, map_location=self.student.rows.weight.device, weights_only=True)
            self.student.load_state_dict(best["student"])
        self.student.eval()
        self.watch.finish()
        return self.validations

    def after(self, step: int, figures: Mapping[str, float], *, takes_up: bool) -> None:
        """Log, watch, validate and save after ``step`` steps, as each is due."""
        if not math.isfinite(figures["loss"]):
            raise Diverged(
                f"the training loss is {figures['loss']} at step {step}: lower the learning rate (now "
                f"{self.options.learning_rate:g})"
            )
        self.log(step - 1, figures)
        self.watch.take(figures)
        last = step == self.options.steps or self._ends(step, takes_up=takes_up)
        if len(self.validation) and (step % self.options.validate_every == 0 or last):
            self._validate(step)
        if last or (takes_up and step - self._kept >= self.options.save_every):
            self._kept = step
            state = {
                "fingerprint": self.fingerprint,
                "step": step,
                "student": self.student.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "validations": [(v.step, v.loss, v.shuffled, v.reward) for v in self.validations],
                "scored": self.watch.scored,
                "judged": self.watch.judged,
                "watched": self.watch.recalled,
                "ended": self.meter.ended is not None,
            }
            save_state(self.state_file, state)

    def _ends(self, step: int, *, takes_up: bool) -> bool:
        """Say whether a limit ends the training: that of completions, where the next batch would go beyond it."""
        return self.meter.ends(step, self.watch.scored + self.options.batch_size - 1 if takes_up else 0)

    def _validate(self, step: int) -> None:
        """Measure loss and, where there is a judge, payment after ``step`` steps; keep the best weights if asked to."""
        judged = {} if self.judge is None else dict(self.judge())
        validation = validate(self.student, self.validation, step, dtype=self.dtype, seed=self.options.seed)
        validation = replace(validation, reward=judged.get("validation_reward"))
        self.validations.append(validation)
        self.log(step - 1, {"validation_loss": validation.loss, **judged})
        if self.options.keep == "best" and validation == best_of(self.validations):
            state = {"fingerprint": self.fingerprint, "step": step, "student": self.student.state_dict()}
            save_state(self._best, state)
