"""``udrl prefer``: a reward model from the pairs that DPO learns from, by TRL's RewardTrainer."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from udrl.arguments import by_keywords, check_fields, fitting_seed
from udrl.data.episodes import read_episodes
from udrl.data.facts import PreferFacts
from udrl.data.run import Run
from udrl.errors import MissingDependency, StudentError, is_installed
from udrl.files import atomic_write, partial_of, remove_folder
from udrl.hardware import choose_device
from udrl.metrics import mean_interval
from udrl.rewards.preference import FILE, SCHEMA, load_scorer, logits_of, pair_ids
from udrl.tokenizer import load_tokenizer
from udrl.training.checkpoint import request_of
from udrl.training.methods import Dpo
from udrl.training.methods.method_data import Pair, pairs_of, without_derived
from udrl.training.origin import find_origin
from udrl.training.starting_point import preset_of

FOLDER = "preference"
"""In the run folder: the reward model, which the reward ``preference:RUN/preference`` asks."""
GENTLE = 0.5
"""Learning rate, as a share of what the student would be trained on with."""
WARMUP = 0.1


@dataclass(frozen=True)
class PreferReport:
    """What was learnt. accuracy: share of validation pairs in the right order, with its 95 % interval; None: no pairs.

    source: the reward, as ``udrl score --reward`` and ``udrl train --method-reward`` take it.
    """

    folder: Path
    source: str
    pairs: int
    validation_pairs: int
    accuracy: tuple[float, float, float] | None
    steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PreferOptions:
    """What a caller of `prefer` decides. Ranges of numbers are those of `udrl.arguments.RANGES`.

    start_from: the run or checkpoint of a trained student, whose weights are started from. by, gap: the return, and how
    far apart it must be, as `Dpo` pairs it. epochs: passes over the pairs, unless ``steps`` are given. batch_size:
    pairs a step. learning_rate: the peak; None: half of what the student would be trained on with.
    """

    start_from: Path | str
    by: str = "relevance"
    gap: float = 0.25
    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 16
    learning_rate: float | None = None
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for what is out of its range."""
        check_fields(self)


@by_keywords(PreferOptions)
def prefer(run: Path | str, options: PreferOptions) -> PreferReport:
    """Train a reward model to tell which of two completions of an input has the higher return, into RUN/preference.

    Called as ``prefer(run, start_from=...)``: every field of `PreferOptions` is an argument. The model starts from the
    weights of the student, with a head of one number, reads text without commands, and learns by the loss of Bradley
    and Terry. An interrupted call begins anew; an earlier model stays until the new one is finished.

    Raises StudentError where no two completions are far enough apart, MissingDependency without TRL.
    """
    if not is_installed("trl"):
        raise MissingDependency("a reward model is trained by TRL, which is not here: pip install 'udrl[study]'")
    from udrl.architecture import architecture_of

    started, run_folder, origin = time.monotonic(), Run(run), find_origin(options.start_from)
    folder, method = run_folder.path / FOLDER, Dpo(reward=options.by, gap=options.gap)
    with run_folder.writing():
        asked = request_of(run_folder, origin, vars(options))
        if (finished := run_folder.finished(folder, asked)) is not None:
            run_folder.done(folder)
            accuracy = finished["accuracy"] and (*finished["accuracy"],)
            return PreferReport(**{**finished, "folder": folder, "accuracy": accuracy})
        pairs, unseen = (_pairs(run_folder, split, method) for split in ("train", "validation"))
        if not pairs:
            raise StudentError(
                f"no input has two completions whose '{method.reward}' is {method.gap:g} of its task's range apart: "
                "score the run with it (udrl score), lower --gap, or ask the teacher for more completions an input "
                "(udrl synth --samples)"
            )
        partial = partial_of(folder)
        remove_folder(partial)
        steps = options.steps or max(1, round(options.epochs * len(pairs) / options.batch_size))
        rate = options.learning_rate or preset_of("gpt2", "auto", origin).learning_rate * GENTLE
        model, tokenizer = _train(origin.folder, pairs, partial, options, steps=steps, rate=rate)
        context = architecture_of(model.config).context(model.config)
        _save(partial, model, tokenizer, pairs, by=options.by, context=context)
        right = _accuracy(model, tokenizer, unseen, context, seed=options.seed)
        seconds = round(time.monotonic() - started, 1)
        report = PreferReport(folder, f"preference:{folder}", len(pairs), len(unseen), right, steps, seconds)
        told: dict[str, Any] = {**asdict(report), "folder": str(folder)}
        kept = PreferFacts(
            **told,
            by=options.by,
            gap=options.gap,
            seed=options.seed,
            batch_size=options.batch_size,
            learning_rate=rate,
            origin=origin.record(),
        )
        run_folder.publish(folder, kept, asked=asked, report=told)
        run_folder.done(folder)
        return report


def _save(folder: Path, model: Any, tokenizer: Any, pairs: Sequence[Pair], *, by: str, context: int) -> None:
    """Write the model, its tokenizer, and what its numbers are brought to a reward by."""
    said = _logits(model, tokenizer, pairs, context)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "schema": SCHEMA,
        "mean": float(np.mean(said)),
        "deviation": max(float(np.std(said)), 1e-6),
        "by": by,
        "context": context,
    }
    atomic_write(folder / FILE, json.dumps(facts))


def _accuracy(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], context: int, *, seed: int
) -> tuple[float, float, float] | None:
    """Return the share of ``pairs`` in the right order, with its 95 % interval; None where there are none."""
    if not pairs:
        return None
    better, worse = np.split(np.array(_logits(model, tokenizer, pairs, context)), 2)
    return mean_interval((better > worse).astype(float), [pair.chosen.input_id for pair in pairs], seed=seed)


def _pairs(run: Run, split: Any, method: Dpo) -> list[Pair]:
    episodes = without_derived(read_episodes(run.episodes, splits=(split,)))
    scored = [episode for episode in episodes if episode.returns.get(method.reward) is not None]
    return pairs_of(scored, method) if scored else []


def _train(
    start: Path, pairs: Sequence[Pair], folder: Path, options: PreferOptions, *, steps: int, rate: float
) -> tuple[Any, Any]:
    """Return the model, trained from the student in ``start``, and its tokenizer; TRL may write into ``folder``."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    from udrl.architecture import architecture_of

    torch.manual_seed(fitting_seed(options.seed))  # of the head
    tokenizer = load_tokenizer(start, local_files_only=True)
    tokenizer.pad_token = tokenizer.eos_token
    model = _scorer(start)
    model.config.pad_token_id = tokenizer.eos_token_id
    context = architecture_of(model.config).context(model.config)
    inputs = [pair.chosen.input for pair in pairs]
    chosen = pair_ids(tokenizer, inputs, [pair.chosen.completion for pair in pairs], context=context)
    rejected = pair_ids(tokenizer, inputs, [pair.rejected.completion for pair in pairs], context=context)
    rows = [{"chosen_ids": c, "rejected_ids": r} for c, r in zip(chosen, rejected, strict=True)]
    with warnings.catch_warnings():
        # of settings that TRL and transformers rename among themselves
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl)\.")
        trainer = RewardTrainer(
            model,
            args=RewardConfig(
                output_dir=str(folder),
                max_steps=steps,
                per_device_train_batch_size=options.batch_size,
                learning_rate=rate,
                warmup_steps=round(WARMUP * steps),
                lr_scheduler_type="cosine",
                max_length=None,
                use_cpu=choose_device(options.device) == "cpu",
                bf16=False,
                gradient_checkpointing=False,
                disable_dropout=True,
                seed=fitting_seed(options.seed, bits=32),
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model.eval(), tokenizer


def _scorer(start: Path) -> Any:
    """Return the student's model with a new head of one number; raises StudentError for families that write only."""
    from transformers.utils import logging

    from udrl.architecture import kind_of

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that the head is new is no news
    try:
        return load_scorer(start)
    except ValueError as error:
        kind = kind_of(json.loads((start / "config.json").read_text(encoding="utf-8")))
        raise StudentError(
            f"the student in {start} is a {kind}, of which transformers makes no reward model: start from another one"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _logits(model: Any, tokenizer: Any, pairs: Sequence[Pair], context: int) -> list[float]:
    """Return what the model says to the chosen completions, then to the rejected ones."""
    inputs = [pair.chosen.input for pair in pairs]
    written = [*(pair.chosen.completion for pair in pairs), *(pair.rejected.completion for pair in pairs)]
    return logits_of(model, pair_ids(tokenizer, [*inputs, *inputs], written, context=context))
