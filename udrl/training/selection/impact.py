"""Which of a run's training episodes matter: LIMR's learning-impact measure, what is kept by it, the files of choices.

The measure (LIMR, arXiv 2502.11886, section 2.2) compares each sample's reward at the end of every epoch with the
average of all: s_i = 1 - sum_k (r_i^k - rbar^k)^2 / sum_k (1 - rbar^k)^2. There, r is the reward of what a policy in RL
wrote for the sample. Supervised learning on episodes has no such reward; in its place stands how likely the student
finds the episode's own completion under its own command (see `probe`), which lies in (0, 1] as a reward there does.

A choice is a file ``selections/NAME.parquet`` in the run, one row a training episode:

    episode_id  text         as in the episodes
    task        text
    score       float        the measure; null: none was made
    kept        bool
    values      list<float>  the episode's value at each moment of the probe; empty where there was none
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from udrl.commands import LENGTH
from udrl.data.episode import Episode
from udrl.data.run import Run, check_name
from udrl.errors import StudentError, UsageError, damaged, expect, unknown
from udrl.files import atomic_write
from udrl.training.checkpoint import fingerprint

SCHEMA = 1
CELL = 20
"""Fewest episodes that a cell of bins has on average: with more attributes or fewer episodes, bins become wider."""
FOLDER = "selections"
FACTS = b"udrl"
Floats = npt.NDArray[np.float64]
By = Literal["limr", "random", "inverse"]
KINDS: tuple[By, ...] = get_args(By)


@dataclass(frozen=True)
class Selection:
    """A choice among episodes. facts: how it was made; the rest is one entry an episode (see the module's table)."""

    facts: Mapping[str, Any]
    episode_ids: Sequence[str]
    tasks: Sequence[str]
    scores: Floats
    kept: npt.NDArray[np.bool_]
    values: Floats


def alignment(tasks: Sequence[str], values: Floats) -> Floats:
    """Return LIMR's score of each sample: at most 1, which is a trajectory equal to its task's average.

    values: (samples, moments) within [0, 1]; a sample without values is NaN and stays so. The average is the task's,
    since tasks are not equally hard and each keeps its share.
    """
    labels, scores = np.asarray(tasks), np.full(len(values), np.nan)
    for task in np.unique(labels):
        members = np.flatnonzero((labels == task) & np.isfinite(values).all(1))
        if not len(members):
            continue
        mean = values[members].mean(0)
        distance, whole = ((values[members] - mean) ** 2).sum(1), ((1 - mean) ** 2).sum()
        scores[members] = 1 - distance / max(whole, np.finfo(float).tiny)
    return scores


def cells_of(episodes: Sequence[Episode], bins: int) -> list[tuple[int, ...]]:
    """Return the cell of each episode's return within its task: its bin of every reward, and of its length.

    bins: at most so many, of like numbers of episodes each, an attribute; fewer where cells would have under `CELL`
    episodes on average. An episode without a value of a reward has a bin of its own there.
    """
    of_task: dict[str, list[int]] = defaultdict(list)
    for index, episode in enumerate(episodes):
        of_task[episode.task].append(index)
    cells: list[tuple[int, ...]] = [()] * len(episodes)
    for members in of_task.values():
        names = sorted({name for i in members for name in episodes[i].returns})
        columns = [np.array([_value(episodes[i], name) for i in members]) for name in [*names, LENGTH]]
        count = min(bins, max(1, math.floor((len(members) / CELL) ** (1 / len(columns)))))
        placed = np.stack([_bins(column, count) for column in columns], axis=1)
        for index, cell in zip(members, placed.tolist(), strict=True):
            cells[index] = tuple(cell)
    return cells


def _value(episode: Episode, name: str) -> float:
    value = episode.horizon if name == LENGTH else episode.returns.get(name)
    return math.nan if value is None else float(value)


def _bins(values: Floats, count: int) -> npt.NDArray[np.int64]:
    known = np.isfinite(values)
    edges = np.quantile(values[known], np.arange(1, count) / count) if known.any() else np.array([])
    return np.where(known, np.searchsorted(edges, values, side="right"), -1)


def best_share(
    tasks: Sequence[str], cells: Sequence[tuple[int, ...]], keys: Floats, share: float
) -> npt.NDArray[np.bool_]:
    """Say which samples are kept: of every cell of every task, the ``share`` with the highest ``keys``.

    A task keeps round(share x its samples), at least one; what rounding leaves goes to the cells that are owed most.
    Samples whose key is NaN are never kept. Equal keys keep the earlier sample.
    """
    kept = np.zeros(len(keys), dtype=bool)
    of_task: dict[str, dict[tuple[int, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (task, cell) in enumerate(zip(tasks, cells, strict=True)):
        of_task[task][cell].append(index)
    for of_cell in of_task.values():
        total = max(1, math.floor(share * sum(map(len, of_cell.values())) + 0.5))
        ranked = {
            cell: sorted((i for i in members if math.isfinite(keys[i])), key=lambda i: (-keys[i], i))
            for cell, members in sorted(of_cell.items())
        }
        quotas = {cell: min(math.floor(share * len(of_cell[cell])), len(ranked[cell])) for cell in ranked}
        owed = sorted(ranked, key=lambda cell: math.floor(share * len(of_cell[cell])) - share * len(of_cell[cell]))
        for cell in itertools.cycle(owed):
            if sum(quotas.values()) >= min(total, sum(map(len, ranked.values()))):
                break
            quotas[cell] += quotas[cell] < len(ranked[cell])
        for cell, quota in quotas.items():
            kept[ranked[cell][:quota]] = True
    return kept


# -- files -----------------------------------------------------------------------------------------------------------


def file_of(run: Run, name: str) -> Path:
    """Return the file of the selection ``name``; raises UsageError where that cannot be a name."""
    check_name(name, "selection")
    return run.path / FOLDER / f"{name}.parquet"


def write_selection(file: Path, selection: Selection) -> None:
    """Write ``selection`` to ``file``, in place of an earlier one; interrupted, the earlier one stays."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = [score if math.isfinite(score) else None for score in selection.scores.tolist()]
    values = [row if all(map(math.isfinite, row)) else [] for row in selection.values.tolist()]
    kinds = {
        "episode_id": pa.string(), "task": pa.string(), "score": pa.float64(), "kept": pa.bool_(),
        "values": pa.list_(pa.float64()),
    }  # fmt: skip
    columns = (selection.episode_ids, selection.tasks, scores, selection.kept.tolist(), values)
    facts = {"schema": SCHEMA, **selection.facts}
    table = pa.table(
        [pa.array(list(column), kind) for column, kind in zip(columns, kinds.values(), strict=True)],
        schema=pa.schema(list(kinds.items()), metadata={FACTS: json.dumps(facts)}),
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, buffer.getvalue())


def selected(run: Run, name: str, episodes: Sequence[Episode]) -> list[Episode]:
    """Return those of the run's training ``episodes`` that the selection ``name`` keeps.

    Raises UsageError for a name that the run has no selection of, StudentError where the selection cannot be read or
    was made from other episodes than these.
    """
    import pyarrow.parquet as pq

    file = file_of(run, name)
    if not file.exists():
        known = sorted(path.stem for path in file.parent.glob("*.parquet"))
        if not known:
            raise UsageError(f"{run.path} has no selection '{name}', nor any other: make one with udrl select")
        raise unknown("selection", name, known)
    with damaged(StudentError, file, "make it again with udrl select"):
        table = pq.read_table(file, columns=["episode_id", "kept"])
        facts = expect(json.loads(table.schema.metadata[FACTS]), dict, "what it says of itself")
    if facts.get("schema") != SCHEMA:
        raise StudentError(
            f"{file} has schema {facts.get('schema')}, this version reads {SCHEMA}: make it again with udrl select"
        )
    if facts.get("episodes") != fingerprint(episodes):
        raise StudentError(
            f"selection '{name}' was made from other episodes or returns than {run.path} has now: make it again with "
            "udrl select"
        )
    kept = {i for i, is_kept in zip(*(table.column(c).to_pylist() for c in table.column_names), strict=True) if is_kept}
    return [e for e in episodes if e.episode_id in kept]
