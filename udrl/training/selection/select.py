"""``udrl select``: keeps the share of a run's training episodes that matter, by how a probe learns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from udrl.arguments import checked
from udrl.commands import LENGTH
from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.facts import SelectFacts
from udrl.data.run import Run
from udrl.errors import StudentError, UsageError, unknown
from udrl.training.checkpoint import fingerprint
from udrl.training.selection.impact import (
    KINDS,
    By,
    Floats,
    Selection,
    alignment,
    best_share,
    cells_of,
    file_of,
    write_selection,
)
from udrl.training.selection.probe import probed

SHARE = 0.2
BINS = 10
EPOCHS = 2.0
MOMENTS = 4


@dataclass(frozen=True)
class TaskChoice:
    """What is kept of one task.

    trajectory: its mean value at each moment. lowest, highest: scores that were kept. spread: for each attribute, the
    standard deviation among what is kept over that among all; far under 1, commands have lost their range.
    """

    episodes: int
    kept: int
    trajectory: tuple[float, ...]
    lowest: float | None
    highest: float | None
    spread: Mapping[str, float]


@dataclass(frozen=True)
class SelectReport:
    """What was chosen. unscored: episodes too long for the probe, which are never kept; seconds: of the probe."""

    name: str
    file: Path
    by: str
    share: float
    episodes: int
    kept: int
    unscored: int
    probe_steps: int
    seconds: float
    tasks: Mapping[str, TaskChoice]


@checked
def select(
    run: Path | str = "runs/default",
    *,
    share: float = SHARE,
    by: By = "limr",
    name: str | None = None,
    bins: int = BINS,
    student: str = "gpt2-mini",
    probe_epochs: float = EPOCHS,
    probe_steps: int | None = None,
    moments: int = MOMENTS,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    restart: bool = False,
) -> SelectReport:
    """Choose a ``share`` of the run's training episodes for ``udrl train --selection NAME``; they stay as they are.

    by: "limr" keeps the highest scores (`impact.alignment`), "inverse" the lowest, "random" any; the
    last needs no probe. name: of the selection; None: ``by`` and the share, as in limr-0.2. One of that name is
    replaced.
    bins: each task's episodes are chosen bin by bin of return and length (`cells_of`), so that what commands ask for
    is still there; 1: over the whole task.
    student: the probe, as in `train`; it trains for ``probe_epochs`` passes, or ``probe_steps``, and looks at every
    episode at ``moments`` equally distant moments. restart: forget an interrupted probe.

    An interrupted probe is gone on with by the same call, and a finished one is used again for another share or ``by``.
    Raises UsageError for a share outside (0, 1] or an unknown ``by``, StudentError where there are no episodes.
    """
    if by not in KINDS:
        raise unknown("kind of selection", by, KINDS)
    if probe_steps is not None and probe_steps < moments:
        raise UsageError(f"select needs a step for every moment, found {moments} moments and {probe_steps} steps")
    run_folder = Run(run)
    run_folder.check()
    name = name or f"{by}-{share:g}"
    file = file_of(run_folder, name)
    with run_folder.writing():
        episodes = read_episodes(run_folder.episodes, splits=("train",))
        if not episodes:
            raise StudentError(f"{run_folder.episodes} holds no training episodes that were kept: run udrl synth first")
        values, steps, seconds = np.full((len(episodes), 0), np.nan), 0, 0.0
        if by != "random":
            values, steps, seconds = probed(
                run_folder, episodes, student=student, epochs=probe_epochs, steps=probe_steps, moments=moments,
                seed=seed, device=device, precision=precision, restart=restart,
            )  # fmt: skip
        selection = _selection(episodes, values, by=by, share=share, bins=bins, seed=seed, student=student, steps=steps)
        write_selection(file, selection)
        scores, kept = selection.scores, selection.kept
        report = SelectReport(
            name=name,
            file=file,
            by=by,
            share=share,
            episodes=len(episodes),
            kept=int(kept.sum()),
            unscored=0 if by == "random" else int(np.isnan(scores).sum()),
            probe_steps=steps,
            seconds=round(seconds, 1),
            tasks={task: _choice(task, episodes, values, scores, kept) for task in sorted(set(selection.tasks))},
        )
        run_folder.record(SelectFacts(**{**asdict(report), "file": str(file)}, bins=bins, student=student, seed=seed))
    return report


def _selection(
    episodes: Sequence[Episode], values: Floats, *, by: By, share: float, bins: int, seed: int, student: str, steps: int
) -> Selection:
    """Choose among ``episodes`` by what the probe found, ``values`` of (episodes, moments); "random" needs none.

    Raises StudentError where nothing would be kept.
    """
    tasks = [e.task for e in episodes]
    if by == "random":
        scores = np.full(len(episodes), np.nan)
        keys = np.random.default_rng(seed).random(len(episodes))
    else:
        scores = alignment(tasks, values)
        keys = scores if by == "limr" else -scores
    kept = best_share(tasks, cells_of(episodes, bins), keys, share)
    if not kept.any():
        raise StudentError(
            f"nothing would be kept: all {len(episodes):,} training episodes are too long for the probe {student}: "
            "name one with a longer context (--student), or choose --by random"
        )
    facts = {
        "by": by, "share": share, "bins": bins, "seed": seed, "student": student, "probe_steps": steps,
        "episodes": fingerprint(episodes),
    }  # fmt: skip
    return Selection(facts, [e.episode_id for e in episodes], tasks, scores, kept, values)


def _choice(
    task: str, episodes: Sequence[Episode], values: Floats, scores: Floats, kept: np.ndarray[Any, np.dtype[np.bool_]]
) -> TaskChoice:
    of_task = np.array([e.task == task for e in episodes])
    of_kept = scores[of_task & kept]
    spread = {}
    names = sorted({name for e in episodes if e.task == task for name in e.returns})
    for name in [*names, LENGTH]:
        column = [float(e.horizon) if name == LENGTH else e.returns.get(name) for e in episodes]
        known = np.array([v if v is not None else np.nan for v in column], dtype=float)
        there = of_task & np.isfinite(known)
        whole = known[there].std() if there.any() else 0.0
        if whole > 0 and (there & kept).any():
            spread[name] = round(float(known[there & kept].std() / whole), 4)
    mean = (
        np.nanmean(values[of_task], axis=0) if values.shape[1] and np.isfinite(values[of_task]).any() else np.array([])
    )
    scored = of_kept[np.isfinite(of_kept)]
    return TaskChoice(
        episodes=int(of_task.sum()),
        kept=int((of_task & kept).sum()),
        trajectory=tuple(mean.tolist()),
        lowest=float(scored.min()) if len(scored) else None,
        highest=float(scored.max()) if len(scored) else None,
        spread=spread,
    )
