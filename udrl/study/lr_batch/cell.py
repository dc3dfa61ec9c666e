"""One cell of the study of learning rate and batch size: a student trained with both, and read twice in that one run.

The learning rate is constant after a few steps of warm-up, the same number in every cell, so that a student in the
middle of a run is what a shorter run would have ended with. All cells of one seed see the same episodes in the same
order; only where that order is cut into batches differs.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.decoding.sampling import Sampling
from udrl.errors import Diverged, StudentError, UsageError
from udrl.files import atomic_write
from udrl.hardware import torch_device, torch_dtype
from udrl.rewards import scored_rewards
from udrl.rewards.protocol import compute_known
from udrl.student.student import Student
from udrl.study.folders import same_data
from udrl.training.calibrate import first_inputs
from udrl.training.checkpoint import STATE
from udrl.training.methods.method_data import without_derived
from udrl.training.options import LoopOptions
from udrl.training.origin import Origin, find_origin
from udrl.training.starting_point import Learner, Source, begin, preset_of

if TYPE_CHECKING:
    from udrl.rewards.protocol import Reward
    from udrl.student.network import StudentModel

TOKENS, STEPS = "tokens", "steps"
"""The two reads: at equal tokens, which is the end, and at as many steps as the largest batch makes by then."""
WEIGHT_DECAY, CLIP = 0.05, 1.0
LOSSES = 128
"""Most held-out episodes a task whose loss is measured."""
READ = "read-steps.json"
PLACES = ("run", "prepared", "start_from")
"""Settings that say where something is, and nothing of what is computed."""
HIGH = 0.95
"""Quantile of the training episodes' reward that a student of upside-down RL is read at."""


@dataclass(frozen=True)
class CellSettings:
    """What a cell computes.

    run, prepared: the run folder, and the folder of the tokenizer that all cells share; episodes: hash of the run's
    data. rewards: by task, the reward that is its score. sequences: episodes that are trained on in all; equal_steps:
    where the run is read first; warmup: steps. limit: held-out inputs a task. start_from: a run or checkpoint of a
    trained student to go on from, instead of ``student``, with the hash of its weights.
    """

    run: str
    prepared: str
    episodes: str
    student: str
    method: str
    rewards: Mapping[str, str]
    learning_rate: float
    batch_size: int
    micro_batch: int
    seed: int
    sequences: int
    equal_steps: int
    warmup: int
    limit: int
    start_from: str | None = None
    start_weights: str = ""
    device: str = "auto"
    precision: str = "auto"

    @property
    def name(self) -> str:
        """The cell's name in its study."""
        return f"lr{self.learning_rate:g}-b{self.batch_size}-s{self.seed}"


@dataclass(frozen=True)
class Material:
    """Episodes to train on, held-out ones whose loss is measured, and held-out inputs to write for, by task."""

    train: list[Episode]
    held_out: list[Episode]
    inputs: Mapping[str, Sequence[str]]


def read_material(run: Run, rewards: Mapping[str, str], *, method: str, limit: int) -> Material:
    """Return what the cells train on and are read on, all from the run's training and validation splits.

    By SFT: the good completions, which are those whose reward is at least their task's mean. By udrl: all episodes.
    Raises StudentError where a task has nothing to train on, or nothing held out.
    """
    every = [e for e in read_episodes(run.episodes, splits=("train",)) if e.task in rewards]
    held_out = [e for e in without_derived(read_episodes(run.episodes, splits=("validation",))) if e.task in rewards]
    train = good(without_derived(every), rewards) if method == "sft" else every
    inputs = first_inputs([e for e in held_out if e.returns.get(rewards[e.task]) is not None], limit)
    measured: dict[str, list[Episode]] = defaultdict(list)
    for episode in good(held_out, rewards) if method == "sft" else held_out:
        measured[episode.task].append(episode)
    for task in rewards:
        if not any(e.task == task for e in train) or not measured[task]:
            raise StudentError(
                f"task '{task}' has no completions to train on, or none held out, in {run.episodes}: synthesize more "
                "inputs (udrl synth --num-inputs)"
            )
    return Material(train, [e for task in sorted(rewards) for e in measured[task][:LOSSES]], inputs)


def good(episodes: Sequence[Episode], rewards: Mapping[str, str]) -> list[Episode]:
    """Return the episodes whose reward, by task, is at least their task's mean; unscored ones are left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        value = episode.returns.get(rewards[episode.task])
        if value is not None:
            values[episode.task].append(value)
    least = {task: float(np.mean(rewarded)) - 1e-9 for task, rewarded in values.items()}
    return [e for e in episodes if (v := e.returns.get(rewards[e.task])) is not None and v >= least[e.task]]


def work(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train the cell's student in ``folder``, or go on with it there, and return what was read.

    ``reads``: by read, the step, episodes and tokens seen by then, ``scores`` (each held-out input's reward, by task;
    None where it cannot be computed for what the student wrote) and ``losses`` (each held-out episode's nats a token,
    by task). ``diverged``: the reads that are missing, as the loss was not finite any more. ``lowest``,
    ``know_nothing``: the lowest reward by task, and the loss of a uniform guess.
    """
    with same_data(folder, settings):
        return _read_twice(folder, CellSettings(**settings))


def source_of(student: str, method: str, origin: Origin | None, *, seed: int) -> Source:
    """Return what the students of all cells are made from, their weights by ``seed``."""
    return Source(preset_of(student, "auto", origin), origin=origin, commanded=method == "udrl", seed=seed)


def _options(cell: CellSettings) -> LoopOptions:
    steps = cell.sequences // cell.batch_size
    return LoopOptions(
        steps=steps,
        batch_size=cell.batch_size,
        micro_batch=min(cell.micro_batch, cell.batch_size),
        learning_rate=cell.learning_rate,
        warmup=cell.warmup / steps,
        schedule="constant",
        weight_decay=WEIGHT_DECAY,
        clip=CLIP,
        save_every=max(1, steps // 4),
        seed=cell.seed,
    )


def _read_twice(folder: Path, cell: CellSettings) -> dict[str, Any]:
    from udrl.training.loop import batches, run_loop

    run = Run(cell.run)
    material = read_material(run, cell.rewards, method=cell.method, limit=cell.limit)
    origin = None if cell.start_from is None else find_origin(cell.start_from)
    source = source_of(cell.student, cell.method, origin, seed=cell.seed)
    learner = begin(source, material.train, run.facts(), Path(cell.prepared), keep=False)
    model, space, device = learner.model, learner.space, torch_device(cell.device)
    dtype = torch_dtype(cell.precision, device)
    model.to(device)
    train, options = learner.examples(material.train), _options(cell)
    order = batches(train, space, options)
    sizes = np.array(
        [len(text) + len(ids) + space.prompt_size for text, ids in zip(train.inputs, train.completions, strict=True)]
    )
    reader = _Reader(
        cell, rewards_of_tasks(cell.rewards, run), material, learner, max_tokens=max(map(len, train.completions))
    )
    early, steps = folder / READ, options.steps
    reads: dict[str, dict[str, Any]] = {}

    def read(step: int) -> dict[str, Any]:
        taken = order[: step * cell.batch_size]
        return {"step": step, "episodes": len(taken), "tokens": int(sizes[taken].sum()), **reader.read(model, dtype)}

    def log(step: int, _: Mapping[str, float]) -> None:
        # Before the state of this step is saved: whoever is interrupted here reads the same student again.
        if step + 1 == cell.equal_steps < steps and not early.exists():
            atomic_write(early, json.dumps(read(step + 1)))

    try:
        run_loop(model, train, options, dtype=dtype, state_file=folder / STATE, fingerprint=cell.episodes, log=log)
        reads[TOKENS] = read(steps)
    except Diverged:
        pass
    if cell.equal_steps == steps:
        reads |= {STEPS: reads[TOKENS]} if reads else {}
    elif early.exists():
        reads[STEPS] = json.loads(early.read_text())
    reads = {name: one for name, one in reads.items() if _is_finite(one)}
    return {
        "reads": reads,
        "diverged": [name for name in (TOKENS, STEPS) if name not in reads],
        "parameters": model.parameter_count,
        "lowest": reader.lowest,
        "know_nothing": float(np.log(space.base)),
    }


def _is_finite(read: Mapping[str, Any]) -> bool:
    values = [v for part in ("scores", "losses") for of_task in read[part].values() for v in of_task]
    return all(v is None or math.isfinite(v) for v in values)


def rewards_of_tasks(names: Mapping[str, str], run: Run) -> dict[str, Reward]:
    """Return each task's reward, as ``run`` was scored with it; UsageError for one that only a table knows."""
    scored = scored_rewards(run, sorted(set(names.values())))
    for task, name in names.items():
        if name not in scored:
            raise UsageError(
                f"task '{task}' has no reward but '{name}', which cannot be computed for new completions: score the "
                "run with one that can (udrl score --reward)"
            )
    return {task: scored[name] for task, name in names.items()}


class _Reader:
    """Reads a student: writes for the held-out inputs, greedily, and measures losses."""

    def __init__(
        self,
        cell: CellSettings,
        rewards: Mapping[str, Reward],
        material: Material,
        learner: Learner,
        *,
        max_tokens: int,
    ) -> None:
        self.cell, self.rewards, self.material = cell, rewards, material
        self.held_out = learner.examples(material.held_out)
        self.tokenizer, self.max_tokens = learner.tokenizer, max_tokens

    @property
    def lowest(self) -> dict[str, float]:
        """The lowest value of each task's reward."""
        return {task: reward.low for task, reward in self.rewards.items()}

    def read(self, model: StudentModel, dtype: Any) -> dict[str, Any]:
        """Return ``scores`` and ``losses`` of the student as it is; it goes on in the mode that it was in."""
        from udrl.student.engines.pytorch import TorchEngine

        was_training = model.training
        greedy = Sampling(temperature=0, max_tokens=self.max_tokens)
        student = Student(TorchEngine(model, dtype), self.tokenizer, name="cell", sampling=greedy)
        read = {"scores": self._scores(student), "losses": self._losses(model, dtype)}
        model.train(was_training)
        return read

    def _scores(self, student: Student) -> dict[str, list[float | None]]:
        scores = {}
        for task, name in sorted(self.cell.rewards.items()):
            texts = list(self.material.inputs[task])
            wanted = {} if name not in student.attributes else {name: student.space.quantile(task, name, HIGH)}
            control = student.space.render(task, student.space.positions(task, wanted))
            written = student.generate_ids(texts, [control] * len(texts))
            scores[task] = compute_known(self.rewards[task], texts, [one.completion for one in written])
        return scores

    def _losses(self, model: StudentModel, dtype: Any) -> dict[str, list[float]]:
        from udrl.training.validation import losses_of

        losses: dict[str, list[float]] = defaultdict(list)
        nats = losses_of(model, self.held_out, dtype=dtype, chunk=self.cell.micro_batch)
        for task, value in zip(self.held_out.tasks, nats.tolist(), strict=True):
            losses[task].append(value)
        return dict(losses)
