"""``udrl study lr-batch``: how learning rate and batch size decide what a student learns, by kind of task.

A grid of both, a constant learning rate, several seeds. A published claim (SmolTulu, arXiv 2412.08347) is that tasks of
reasoning want a high ratio of the two and tasks of patterns a low one; but at equal tokens a smaller batch also makes
more steps. So every cell is read twice: at equal tokens and at equal steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from udrl.arguments import checked
from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.hashing import hash_hex
from udrl.data.run import Run
from udrl.errors import StudentError, UsageError, unknown
from udrl.files import replacing_folder
from udrl.study.cells import Cell, run_cells
from udrl.study.folders import data_of
from udrl.study.lr_batch.cell import PLACES, CellSettings, Material, read_material, rewards_of_tasks, source_of
from udrl.study.lr_batch.figures import Kind
from udrl.study.lr_batch.report import Results
from udrl.study.output import StudyReport, publish, study_folder
from udrl.teacher.synthesis.synth import synth
from udrl.training.methods.method_data import without_derived
from udrl.training.options import LoopOptions
from udrl.training.origin import Origin, find_origin
from udrl.training.starting_point import Source, begin

NAME = "lr-batch"
WARMUP = 0.05
"""Steps of warm-up, as a share of the steps to the read at equal steps: the same number in every cell."""
TASKS = ("arithmetic", "instructions", "text-to-image")
"""Of the run that the study makes where there is none."""
REWARDS = ("accuracy", "constraints", "relevance")
"""Rewards that score a task, the first that its episodes have; else their first by name."""
REASONING = ("accuracy",)
"""Rewards whose tasks are of reasoning; all others are of patterns."""
METHODS = ("sft", "udrl")


@dataclass(frozen=True)
class LrBatchOptions:
    """What is compared, and how much of it.

    student: preset, hub id or path; start_from: the run or checkpoint of a trained student, instead. tokens: of
    training, prompts included, of every cell; steps: of the largest batch instead. limit: held-out inputs a task that
    completions are scored on. num_inputs, samples: a task, of the run that the study makes where there is none.
    """

    student: str = "gpt2-700k"
    start_from: Path | str | None = None
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    seeds: int = 3
    tokens: int = 400_000
    steps: int | None = None
    method: str = "sft"
    limit: int = 60
    micro_batch: int = 64
    tasks: tuple[str, ...] = TASKS
    num_inputs: int = 1500
    samples: int = 4

    def __post_init__(self) -> None:
        if len(set(self.learning_rates)) < 2 or len(set(self.batch_sizes)) < 2:
            raise UsageError("a grid needs at least two learning rates and two batch sizes")
        numbers = (*self.learning_rates, *self.batch_sizes, self.seeds, self.tokens, self.limit, self.micro_batch)
        if not all(math.isfinite(value) and value > 0 for value in (*numbers, 1 if self.steps is None else self.steps)):
            raise UsageError("learning rates, batch sizes, seeds, tokens, steps, limit and micro-batch must be above 0")
        if self.method not in METHODS:
            raise unknown("method of the study", self.method, METHODS)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "smoltulu": {"student": "gpt2", "learning_rates": (3.1e-6, 5e-6, 9e-5), "batch_sizes": (8, 32, 128)},
}
"""smoltulu: the cells that are published for fine-tuning (9e-5 / 8 and 3.1e-6 / 32 of SmolTulu, 5e-6 / 128 of Tulu 3),
and the rest of the grid that they span, for a student with pretrained weights."""


@checked
def study_lr_batch(
    run: Path | str = "runs/default",
    options: LrBatchOptions | None = None,
    *,
    seed: int = 0,
    jobs: int = 1,
    ray: bool = False,
    name: str = NAME,
    device: str = "auto",
    precision: str = "auto",
) -> StudyReport:
    """Train and read what is missing of the grid, and write RUN/study/NAME.

    Without episodes in ``run``, they are made first, by the built-in teacher. seed: the first of ``options.seeds``
    seeds, which decide weights and order; tasks, rewards and held-out inputs are the run's. jobs, ray: see
    `udrl.study.cells.run_cells`.

    Raises UsageError for a grid that is none, StudentError where a task has too few episodes or cells failed.
    """
    wanted, origin = _settled(options or LrBatchOptions())
    source = Run(run)
    if not source.episodes.is_dir():
        _make_run(source, wanted, seed=seed)
    rewards = scored_by(read_episodes(source.episodes))
    study = study_folder(source.path, name)
    with study.writing() as folder:
        material = read_material(source, rewards, method=wanted.method, limit=wanted.limit)
        data = data_of(source.path)["episodes"]
        rewards_of_tasks(rewards, source)  # before anything is trained: can they be computed?
        weights = "" if origin is None else origin.weights
        prepared = folder / "tokenizers" / hash_hex(data, wanted.student, wanted.method, weights)
        student = source_of(wanted.student, wanted.method, origin, seed=seed)
        mean = _prepare(material, student, source, prepared)
        sequences = _sequences(wanted, mean)
        common = replace(
            _common(wanted, rewards, sequences),
            run=str(source.path.absolute()),
            prepared=str(prepared.absolute()),
            episodes=data,
            start_weights=weights,
            device=device,
            precision=precision,
        )
        cells = _grid(wanted, common, seed=seed)
        results_by_cell = run_cells(folder, [_cell(settings) for settings in cells.values()], jobs=jobs, ray=ray)
        results = _results(wanted, rewards, {key: results_by_cell[cell.name] for key, cell in cells.items()})
        return publish(
            study,
            folder,
            title=f"Learning rate and batch size: {wanted.student}, {wanted.method}",
            settings={**asdict(wanted), "seed": seed, "sequences": sequences, "equal_steps": common.equal_steps,
                      "warmup_steps": common.warmup},
            cells=results.cells(),
            table=results.table(),
            bars=results.picture(),
            notes=results.notes(),
            findings=results.findings(),
        )  # fmt: skip


def _settled(options: LrBatchOptions) -> tuple[LrBatchOptions, Origin | None]:
    """Return the options with their grid in order and the name of the student, and where the student comes from."""
    rates, sizes = tuple(sorted(set(options.learning_rates))), tuple(sorted(set(options.batch_sizes)))
    wanted = replace(options, learning_rates=rates, batch_sizes=sizes)
    if options.start_from is None:
        return wanted, None
    origin = find_origin(options.start_from)
    return replace(wanted, student=origin.name, start_from=str(Path(options.start_from).absolute())), origin


def _sequences(options: LrBatchOptions, mean_tokens: float) -> int:
    """Return how many episodes a cell trains on: a whole number of steps of every batch size."""
    wanted = options.batch_sizes[-1] * options.steps if options.steps else options.tokens / mean_tokens
    whole = math.lcm(*options.batch_sizes)
    return whole * max(1, round(wanted / whole))


def _common(options: LrBatchOptions, rewards: Mapping[str, str], sequences: int) -> CellSettings:
    """Return what all cells compute alike."""
    equal = sequences // options.batch_sizes[-1]
    return CellSettings(
        run="",
        prepared="",
        episodes="",
        student=options.student,
        method=options.method,
        rewards=rewards,
        learning_rate=0.0,
        batch_size=0,
        micro_batch=options.micro_batch,
        seed=0,
        sequences=sequences,
        equal_steps=equal,
        warmup=max(1, round(WARMUP * equal)),
        limit=options.limit,
        start_from=None if options.start_from is None else str(options.start_from),
    )


def _grid(options: LrBatchOptions, common: CellSettings, *, seed: int) -> dict[tuple[float, int, int], CellSettings]:
    """Return the cells by learning rate, batch size and seed."""
    seeds = range(seed, seed + options.seeds)
    return {
        (rate, batch, k): replace(common, learning_rate=rate, batch_size=batch, seed=k)
        for k, rate, batch in product(seeds, options.learning_rates, options.batch_sizes)
    }


def _results(
    options: LrBatchOptions, rewards: Mapping[str, str], grid: Mapping[tuple[float, int, int], Mapping[str, Any]]
) -> Results:
    kinds: dict[str, Kind] = {task: "reasoning" if name in REASONING else "pattern" for task, name in rewards.items()}
    seeds = tuple(sorted({seed for _, _, seed in grid}))
    return Results(options.learning_rates, options.batch_sizes, seeds, rewards, kinds, grid)


def scored_by(episodes: Sequence[Episode]) -> dict[str, str]:
    """Return the reward that scores each task: the first of `REWARDS` that its own episodes have, else any."""
    have: dict[str, set[str]] = {}
    for episode in without_derived(episodes):
        have.setdefault(episode.task, set()).update(n for n, value in episode.returns.items() if value is not None)
    for task, names in have.items():
        if not names:
            raise StudentError(f"the completions of task '{task}' have no returns: score them first (udrl score)")
    if not have:
        raise StudentError("the run has no training episodes: run udrl synth first")
    return {task: next((name for name in REWARDS if name in names), min(names)) for task, names in sorted(have.items())}


def _cell(settings: CellSettings) -> Cell:
    every = asdict(settings)
    places = {name: every.pop(name) for name in PLACES}
    return Cell(settings.name, "udrl.study.lr_batch.cell:work", every, places)


def _make_run(run: Run, options: LrBatchOptions, *, seed: int) -> None:
    synth(run, tasks=options.tasks, num_inputs=options.num_inputs, samples=options.samples, seed=seed)


def _prepare(material: Material, source: Source, run: Run, prepared: Path) -> float:
    """Make the tokenizer that all cells share; return the mean tokens of a training episode, tasks as they are mixed.

    Raises as training does, before any cell is started.
    """
    from udrl.training.examples import mixing_weights

    new = not prepared.is_dir()
    with replacing_folder(prepared) if new else nullcontext(prepared) as folder:
        learner = begin(source, material.train, run.facts(), folder, keep=new)
    examples = learner.examples(material.train)
    weights = mixing_weights(examples.tasks, LoopOptions.task_temperature)
    sizes: dict[str, list[int]] = {task: [] for task in weights}
    for task, text, completion in zip(examples.tasks, examples.inputs, examples.completions, strict=True):
        sizes[task].append(len(text) + len(completion) + learner.space.prompt_size)
    return sum(weight * sum(sizes[task]) / len(sizes[task]) for task, weight in weights.items())
