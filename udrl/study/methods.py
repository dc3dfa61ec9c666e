"""``udrl study methods``: upside-down RL beside what one would use instead, on one run's tasks.

All methods go on from the same student (SFT on the run's episodes, one for each seed), in two arms:

time    each trains for about so many seconds on all episodes; how many steps that are is timed first, in a short
        training of each method
calls   each may look at so many returns: of as many scored episodes, which it then trains on for its usual number of
        epochs, or of as many completions of its own (GRPO). ``sft`` looks at none and learns from the same episodes
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from udrl.arguments import checked
from udrl.data.episode import DERIVED, Episode
from udrl.data.episodes import iterate_episodes
from udrl.data.hashing import hash_int
from udrl.data.run import Run
from udrl.errors import MissingDependency, UsageError, is_installed
from udrl.files import atomic_write, remove_folder
from udrl.study.cells import MADE, Cell, cell_folder, run_cells
from udrl.study.figures import Figure, Items, gain, over_inputs, over_seeds, shown
from udrl.study.folders import copy_of, data_of, same_data
from udrl.study.output import Bars, StudyReport, publish, study_folder
from udrl.study.training import Measure, facts_of, look_at
from udrl.training.checkpoint import is_trained
from udrl.training.methods import Grpo, Udrl, method_of, through_trl
from udrl.training.starting_point import preset_of
from udrl.training.train import train

METHODS = ("udrl", "sft", "top", "weighted", "dpo", "grpo")
ARMS = ("time", "calls")
START = "start"
BATCH = 32
"""Completions of a batch of GRPO, about: whole groups."""
PILOT = 12
"""Steps of the training that times a method; its first third pays for what later steps find ready."""
ROWS = {"student@open": "open", "student@matched": "matched", "student@top": "top"}
COLUMNS = ("relevance", "agreement", "distinct_2", "pairwise_distance", "copy_rate", "length")


@checked
def study_methods(
    run: Path | str,
    *,
    methods: Sequence[str] = METHODS,
    arms: Sequence[str] = ARMS,
    student: str = "gpt2-mini",
    start_steps: int = 600,
    seconds: float = 180.0,
    calls: int = 4000,
    seeds: int = 3,
    measure: Measure | None = None,
    machine_usd: float | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    rates: Mapping[str, float] | None = None,
    seed: int = 0,
    jobs: int = 1,
    ray: bool = False,
    name: str = "methods",
) -> StudyReport:
    """Train and measure what is missing, and write RUN/study/NAME.

    seconds: of training in the arm ``time``; calls: returns looked at in the arm ``calls``. seeds: how many, from
    ``seed`` on. options: by method, those of `udrl.training.methods`; rates: by method, its learning rate, where it is
    not the usual one of `udrl train --from`. machine_usd: price of an hour of this machine.

    Raises UsageError for unknown methods and arms, MissingDependency where a method needs TRL and it is not installed,
    StudentError where cells fail.
    """
    options, rates = options or {}, rates or {}
    _check(student, methods, arms, options, rates, (seconds, calls, seeds, start_steps))
    run, look = Path(run), measure or Measure()
    study = study_folder(run, name)
    common, places = {**data_of(run), **look.settings}, {"run": str(run.absolute())}
    starts = {k: _first_cell(k, student, start_steps, common, places) for k in range(seed, seed + seeds)}
    with study.writing() as folder:
        begun = run_cells(folder, list(starts.values()), jobs=jobs, ray=ray)
        cells = []
        for arm, method, k in product(arms, methods, starts):
            settings = {**common, "begun": starts[k].key, "method": method, "seed": k}
            settings |= {"options": dict(options.get(method, {})), "rate": rates.get(method)}
            settings |= {"seconds": seconds} if arm == "time" else {"calls": calls}
            where = {**places, "start": str(cell_folder(folder, starts[k]) / MADE / "run" / "student")}
            cells.append(Cell(f"{method}-{arm}-{k}", f"{__name__}:train_by", settings, where))
        results = {**begun, **run_cells(folder, cells, jobs=jobs, ray=ray)}
        settings = {"methods": list(methods), "arms": list(arms), "student": student, "start_steps": start_steps,
                    "seconds": seconds, "calls": calls, "seeds": seeds, "seed": seed, "options": dict(options),
                    "rates": dict(rates), **look.settings}  # fmt: skip
        lines = _lines(results, methods, arms, range(seed, seed + seeds), machine_usd)
        gains = _gains(lines)
        return publish(
            study,
            folder,
            title="Training methods side by side",
            settings=settings,
            cells=results,
            table=[HEADER, *(line.row for line in lines)],
            notes=[*_told(gains, seeds), *_short(results, arms, calls), *_notes(results)],
            bars=_bars(lines),
            findings={"relevance_gain": gains},
        )


def _first_cell(
    seed: int, student: str, steps: int, common: Mapping[str, Any], places: Mapping[str, str | None]
) -> Cell:
    settings = {**common, "student": student, "steps": steps, "seed": seed}
    return Cell(f"{START}-{seed}", f"{__name__}:begin", settings, places)


def _check(
    student: str,
    methods: Sequence[str],
    arms: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    rates: Mapping[str, float],
    numbers: Sequence[float],
) -> None:
    preset_of(student, "auto")
    if min(numbers) <= 0:
        raise UsageError("seconds, calls, seeds and start-steps of the study must be above 0")
    if strange := [arm for arm in arms if arm not in ARMS]:
        raise UsageError(f"unknown arm '{strange[0]}' of the study; known: {', '.join(ARMS)}")
    for name, of in (("options", options), ("a learning rate", rates)):
        if others := sorted(set(of) - set(methods)):
            raise UsageError(f"{name} of the method {others[0]}, which the study does not train: {', '.join(methods)}")
    if any(through_trl(method_of(one, options.get(one))) for one in methods) and not is_installed("trl"):
        raise MissingDependency("the methods dpo and grpo need TRL: pip install 'udrl[study]', or name other methods")


def begin(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train and measure the student that all methods go on from; a cell."""

    with same_data(folder, settings):
        run = copy_of(Path(settings["run"]), folder / "run")
        if not is_trained(Run(run)):
            train(run, method="sft", student=settings["student"], steps=settings["steps"], seed=settings["seed"])
        return {**facts_of(run), **look_at(run, settings)}


def train_by(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train by one method in one arm, and measure the student; a cell."""
    with same_data(folder, settings):
        run = _trained_by(folder, settings)
        return {**facts_of(run), **look_at(run, settings)}


def _trained_by(folder: Path, settings: Mapping[str, Any]) -> Path:
    source, method = Path(settings["run"]), method_of(settings["method"], settings["options"])
    options: dict[str, Any] = {"method": method, "start_from": settings["start"], "seed": settings["seed"]}
    options |= {"replay": 0.0, "learning_rate": settings["rate"]}  # replayed returns would be looked at, too
    if isinstance(method, Grpo):
        options["batch_size"] = batch = max(1, round(BATCH / method.group_size)) * method.group_size
    if "seconds" in settings:
        run = copy_of(source, folder / "run")
        if not is_trained(Run(run)):
            options["steps"] = _steps_for(source, folder, settings["seconds"], options)
    elif isinstance(method, Grpo):
        run = copy_of(source, folder / "run")
        steps = max(1, settings["calls"] * method.updates // batch)
        options |= {"steps": steps, "max_samples": max(batch, settings["calls"])}
    else:
        chosen = first_inputs(source, settings["calls"], settings["seed"], derived=isinstance(method, Udrl))
        run = copy_of(source, folder / "run", keep=lambda e: e.split != "train" or e.input_id in chosen)
    if not is_trained(Run(run)):
        train(run, **options)
    return run


def first_inputs(run: Path, calls: int, seed: int, *, derived: bool) -> set[str]:
    """Return the inputs, in a random order, that together have about ``calls`` scored training episodes.

    derived: count those that nobody wrote as an answer, too; upside-down RL alone learns from them.
    """
    counts: dict[str, int] = {}
    for episode in iterate_episodes(Run(run).episodes, splits=("train",)):
        if derived or episode.origin not in DERIVED:
            counts[episode.input_id] = counts.get(episode.input_id, 0) + _scored(episode)
    chosen, total = set(), 0
    for one in sorted(counts, key=lambda one: hash_int("study", seed, one)):
        if total >= calls:
            break
        chosen.add(one)
        total += counts[one]
    return chosen


def _scored(episode: Episode) -> bool:
    return any(value is not None for value in episode.returns.values())


def _steps_for(source: Path, folder: Path, seconds: float, options: Mapping[str, Any]) -> int:
    """Return how many steps take about so many seconds; kept, so that an interrupted cell goes on with as many."""
    kept = folder / "steps.json"
    if not kept.is_file():
        pilot = copy_of(source, folder / "pilot")
        train(pilot, steps=PILOT, calibration_inputs=0, signs_inputs=0, restart=True, **options)
        lines = (pilot / "student" / "training.jsonl").read_text(encoding="utf-8").splitlines()
        taken = [line["seconds"] for line in map(json.loads, lines) if "loss" in line][PILOT // 3 :]
        remove_folder(pilot)
        atomic_write(kept, json.dumps(max(2, int(seconds * len(taken) / sum(taken)))))
    steps: int = json.loads(kept.read_text(encoding="utf-8"))
    return steps


@dataclass(frozen=True)
class _Line:
    """One row of the table, with what the picture shows of it. items: of each seed, the relevance by input."""

    label: str
    arm: str
    relevance: Figure | None
    row: list[str]
    items: list[Items] = field(default_factory=list)


HEADER = [
    "arm",
    "student",
    "relevance",
    "over the start",
    *COLUMNS[1:],
    "relevance followed",
    "length followed",
    "seconds",
    "reward calls",
    "calls beside",
    "USD",
]


def _lines(
    results: Mapping[str, Any], methods: Sequence[str], arms: Sequence[str], seeds: range, usd: float | None
) -> list[_Line]:
    lines: list[_Line] = []
    start = [results[f"{START}-{k}"]["items"]["student@open"] for k in seeds]
    for arm, method in [("", START), *((arm, method) for arm in arms for method in methods)]:
        names = [f"{method}-{arm}-{k}" if arm else f"{method}-{k}" for k in seeds]
        cells = [results[name] for name in names]
        told = False
        for system, short in ROWS.items():
            rows = [cell["rows"][system] for cell in cells if system in cell["rows"]]
            if not rows:
                continue
            figures = {c: over_seeds(row[c] for row in rows if c in row) for c in COLUMNS}
            follows = [_spearman(cells, attribute) if not told else "" for attribute in ("relevance", "length")]
            cost = _cost(cells, usd) if not told else [""] * 4
            items = [cell["items"][system] for cell in cells]
            over = "" if method == START else shown(gain(items, start), signed=True)
            row = [arm, f"{method}@{short}", *_cells(figures, over), *follows, *cost]
            lines.append(_Line(f"{method}@{short}", arm, figures["relevance"], row, items))
            told = True
    teacher = [cell["rows"]["teacher"] for cell in results.values() if "teacher" in cell["rows"]]
    if teacher:
        figures = {c: over_seeds(row[c] for row in teacher if c in row) for c in COLUMNS}
        lines.append(_Line("teacher", "", figures["relevance"], ["", "teacher", *_cells(figures, ""), *[""] * 6]))
    return lines


def _cells(figures: Mapping[str, Figure | None], over: str) -> list[str]:
    shown_ = [shown(figures[name], 1 if name == "length" else 3) for name in COLUMNS]
    return [shown_[0], over, *shown_[1:]]


def _gains(lines: Sequence[_Line]) -> dict[str, dict[str, Any]]:
    """Return by arm, student and other student of that arm by how much more relevant the first one writes."""
    by_arm: dict[str, dict[str, Any]] = {}
    for one in lines:
        others = [other for other in lines if other.arm == one.arm and other is not one and other.items]
        if one.arm and one.items:
            gains = {other.label: gain(one.items, other.items) for other in others}
            by_arm.setdefault(one.arm, {})[one.label] = gains
    return by_arm


def _told(gains: Mapping[str, Mapping[str, Mapping[str, Figure | None]]], seeds: int) -> list[str]:
    """Say in words how upside-down RL, asked for its best, stands to each other method."""
    lines, drawn = [], "inputs and seeds" if seeds > 1 else "inputs"
    for arm, rows in gains.items():
        against = [
            f"{shown(figure, signed=True)} over {label.partition('@')[0]}"
            for label, figure in rows.get("udrl@top", {}).items()
            if figure and not label.startswith("udrl@")
        ]
        if against:
            lines.append(f"At equal {arm}, relevance of udrl@top: {', '.join(against)} (paired, 95 % over {drawn}).")
    return lines


def _spearman(cells: Sequence[Mapping[str, Any]], attribute: str) -> str:
    values = [cell["items"].get(f"{attribute} followed", {}) for cell in cells]
    return shown(over_inputs(values), 2) if any(values) else "takes no command"


def _cost(cells: Sequence[Mapping[str, Any]], usd: float | None) -> list[str]:
    """Return what the trainings of one row cost on average: seconds of the loop, reward calls, those that calibration
    and validation made beside them, and the money of all of it."""

    def average(*names: str) -> float:
        return sum(cell[name] or 0 for cell in cells for name in names) / len(cells)

    counts = [f"{average('reward_calls'):,.0f}", f"{average('calibration_calls', 'validation_calls'):,.0f}"]
    return [f"{average('seconds'):.0f}", *counts, "-" if usd is None else f"{usd * average('machine_hours'):.4f}"]


def _short(results: Mapping[str, Any], arms: Sequence[str], calls: int) -> list[str]:
    """Name the trainings that had clearly fewer returns to look at than they may."""
    limited = {name: cell for name, cell in results.items() if "-calls-" in name and not name.startswith("grpo-")}
    names = [name for name, cell in limited.items() if 0 < cell["reward_calls"] < 0.95 * calls]
    if "calls" not in arms or not names:
        return []
    return [f"{', '.join(names)}: the run has fewer than {calls:,} scored episodes of that kind"]


def _notes(results: Mapping[str, Any]) -> list[str]:
    """Return the advice that trainings gave, each once, with the cells that it was given in."""
    given: dict[str, list[str]] = {}
    for name, cell in results.items():
        for line in cell["advice"] or ():
            given.setdefault(line, []).append(name)
    return [f"{', '.join(names)}: {line}" for line, names in given.items()]


def _bars(lines: Sequence[_Line]) -> Bars:
    rows = [(f"{line.label} ({line.arm})" if line.arm else line.label, line.relevance) for line in lines]
    return Bars("relevance", [(label, figure) for label, figure in rows if figure is not None])
