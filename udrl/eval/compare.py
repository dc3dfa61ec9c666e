"""Two runs beside each other: what differs, by how much, and whether chance could explain it.

Both wrote for the same inputs, so every difference is of the two for one input: intervals are a bootstrap over inputs,
p-values a sign-flip test over inputs, corrected for how many differences one table holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udrl import metrics
from udrl.bootstrap import mean_intervals
from udrl.data.run import Run
from udrl.errors import RunError, UsageError
from udrl.eval.benchmark_files import Row, benchmark_folders, leading_of, read_benchmark, references_of
from udrl.eval.summary import FILE

Floats = NDArray[np.float64]
Item = tuple[str, str]
"""(task, input_id)."""
Figures = dict[str, dict[Item, float]]
"""Name of a figure -> its value for every item that has one."""

LEVEL = 0.05
"""A difference is called sure where its corrected p-value is below."""

FLIPS = 10_000
_CHUNK = 500


@dataclass(frozen=True)
class Difference:
    """A figure of the second run less that of the first, over inputs that both have.

    task: None over all; first, second: the means; low, high: the 95 % interval of ``difference``; p: of a two-sided
    sign-flip test over inputs; corrected: p after Holm's correction for all differences of the same subject.
    """

    figure: str
    task: str | None
    items: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    corrected: float

    @property
    def sure(self) -> bool:
        """Whether chance is no likely explanation."""
        return self.corrected < LEVEL


@dataclass(frozen=True)
class Benchmark:
    """One benchmark that both runs have.

    items, only_first, only_second: inputs (of a task) that both were measured on, and that only one was; subjects: a
    system, or "STUDENT under commands", to its differences; facts: system -> what its two summaries say; notes: what
    could not be compared, and why.
    """

    name: str
    items: int
    only_first: int
    only_second: int
    leading: str
    reference: str | None
    tasks: tuple[str, ...]
    subjects: Mapping[str, tuple[Difference, ...]]
    facts: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
    rows: tuple[Sequence[Row], Sequence[Row]]
    notes: tuple[str, ...]


def compared(first: Path, second: Path) -> list[Benchmark]:
    """Compare two runs, or two folders of benchmarks, in everything that both have.

    Raises RunError where they have no benchmark, input or system in common, or a file is missing or damaged.
    """
    return [_benchmark(name, *pair) for name, pair in _pairs(first, second).items()]


def _pairs(first: Path, second: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of the benchmarks to compare, by name."""
    single = [path for path in (first, second) if (path / FILE).exists()]
    if len(single) == 2:
        return {second.name: (first, second)}
    if single:
        raise UsageError(f"{single[0]} is a benchmark's folder, the other is none: give two runs, or two of those")
    benchmarks = []
    for path in (first, second):
        Run(path).check()
        benchmarks.append({folder.name: folder for folder in benchmark_folders(path)})
    both = [name for name in benchmarks[0] if name in benchmarks[1]]
    if not both:
        lists = " and ".join(", ".join(names) or "none" for names in benchmarks)
        raise RunError(
            f"{first} and {second} have no benchmark of one name: found {lists}; give the folders of two, such as "
            f"{first / 'bench' / 'NAME'}"
        )
    return {name: (benchmarks[0][name], benchmarks[1][name]) for name in both}


def _benchmark(name: str, first: Path, second: Path) -> Benchmark:
    summaries, rows = [], []
    for folder in (first, second):
        summary, of_run, _ = read_benchmark(folder)
        summaries.append(summary)
        rows.append([row for row in of_run if row["part"] in ("comparison", "following")])
    items = [{(row["task"], row["input_id"]): None for row in of_run if row["part"] == "comparison"} for of_run in rows]
    both = [item for item in items[0] if item in items[1]]
    if not both:
        raise RunError(f"{first} and {second} have no input in common: they were measured on different inputs")
    a, b = summaries
    systems = [system for system in b["systems"] if system in a["systems"]]
    if not systems:
        raise RunError(f"{first} and {second} have no system in common: they compare different ones")
    shared = [ref for ref in references_of(b) if ref in references_of(a)]
    reference = shared[0] if shared else None
    left_out, notes = _left_out(a, b)
    for path, summary, other in ((first, a, b), (second, b, a)):
        alone = [system for system in summary["systems"] if system not in other["systems"]]
        if alone:
            notes.append(f"Only {path} has {', '.join(alone)}.")
    subjects: dict[str, tuple[Difference, ...]] = {}
    for system in systems:
        figures = [_figures((row for row in of_run if row["system"] == system), reference, left_out) for of_run in rows]
        subjects[system] = differences(*figures)
    for student in dict.fromkeys(row["system"] for row in rows[1] if row["part"] == "following"):
        figures = [obedience([row for row in of_run if row["system"] == student], left_out) for of_run in rows]
        subjects[f"{student} under commands"] = differences(*figures)
    return Benchmark(
        name=name,
        items=len(both),
        only_first=len(items[0]) - len(both),
        only_second=len(items[1]) - len(both),
        leading=leading_of(b) if leading_of(b) in systems else systems[0],
        reference=reference,
        tasks=tuple(dict.fromkeys(task for task, _ in both)),
        subjects={subject: compared for subject, compared in subjects.items() if compared},
        facts={system: (a["systems"][system], b["systems"][system]) for system in systems},
        rows=(rows[0], rows[1]),
        notes=tuple(notes),
    )


def _left_out(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """Say which figures the two did not measure with the same encoder."""
    left_out: set[str] = set()
    notes = []
    if a["encoder"] != b["encoder"]:
        left_out |= {"relevance", "agreement"}
        notes.append(f"Relevance was measured with {a['encoder']} here and {b['encoder']} there: it is not compared.")
    fitted = str(b["second_encoder"] or "").startswith("lsa")
    if a["second_encoder"] != b["second_encoder"] or fitted:
        left_out.add("relevance_second")
        why = "is fitted to the texts of each benchmark" if fitted else "is not the same in both"
        notes.append(f"The second encoder {why}: its relevance is not compared.")
    return left_out, notes


def _figures(rows: Iterable[Row], reference: str | None, left_out: set[str]) -> Figures:
    """Return a system's figures by item: the mean over its completions, and distinct-2 between them."""
    texts: dict[Item, list[str]] = {}
    sums: dict[str, dict[Item, list[float]]] = {}
    for row in rows:
        if row["part"] != "comparison" or row["completion"] is None:
            continue
        item = (row["task"], row["input_id"])
        texts.setdefault(item, []).append(row["completion"])
        measured = {name: row.get(name) for name in ("relevance", "relevance_second", "copy_rate", "novelty", "length")}
        measured["agreement"] = (row.get("agreement") or {}).get(reference)
        measured |= row.get("rewards") or {}
        for name, value in measured.items():
            if value is not None and name not in left_out:
                sums.setdefault(name, {}).setdefault(item, []).append(value)
    figures = {
        name: {item: float(np.mean(values)) for item, values in by_item.items()} for name, by_item in sums.items()
    }
    several = {item: metrics.distinct_n(written, 2) for item, written in texts.items() if len(written) > 1}
    return {**figures, "distinct_2 of one input": several} if several else figures


def obedience(rows: Iterable[Row], left_out: set[str]) -> Figures:
    """Return for every attribute the rank correlation within an input, and the mean distance from the command."""
    points: dict[tuple[str, Item], list[tuple[float, float]]] = {}
    for row in rows:
        name = row["attribute"]
        if row["part"] == "following" and row.get(name) is not None and name not in left_out:
            commanded = json.loads(row["targets"])[name]
            points.setdefault((name, (row["task"], row["input_id"])), []).append((commanded, row[name]))
    figures: Figures = {}
    for (name, item), pairs in points.items():
        commanded, achieved = (np.array(values) for values in zip(*pairs, strict=True))
        figures.setdefault(f"rank correlation, {name}", {})[item] = metrics.spearman_within(commanded, achieved)
        figures.setdefault(f"distance from the command, {name}", {})[item] = float(np.abs(commanded - achieved).mean())
    return figures


def differences(first: Figures, second: Figures) -> tuple[Difference, ...]:
    """Return for every figure that both have the difference over all tasks and, where there are several, in each."""
    wanted: list[tuple[str, str | None]] = []
    columns: list[dict[Item, tuple[float, float]]] = []
    for name in first:
        pairs = {item: (first[name][item], second[name][item]) for item in first[name] if item in second.get(name, {})}
        tasks = list(dict.fromkeys(task for task, _ in pairs))
        for task in (None, *tasks) if len(tasks) > 1 else (None,) if pairs else ():
            wanted.append((name, task))
            columns.append({item: pair for item, pair in pairs.items() if task in (None, item[0])})
    if not wanted:
        return ()
    items = list(dict.fromkeys(item for column in columns for item in column))
    both = np.full((2, len(items), len(columns)), np.nan)
    for n, column in enumerate(columns):
        for k, item in enumerate(items):
            if item in column:
                both[:, k, n] = column[item]
    clusters = np.array([input_id for _, input_id in items])
    gaps = both[1] - both[0]
    intervals = mean_intervals(gaps, clusters)
    p = sign_flip(gaps, clusters)
    corrected = holm(p)
    means = np.nanmean(both, axis=1)
    return tuple(
        Difference(
            name,
            task,
            int(intervals.items[n]),
            float(means[0, n]),
            float(means[1, n]),
            *(float(values[n]) for values in (intervals.mean, intervals.lo, intervals.hi, p, corrected)),
        )
        for n, (name, task) in enumerate(wanted)
    )


def sign_flip(gaps: Floats, clusters: Sequence[str] | NDArray[Any], *, flips: int = FLIPS) -> Floats:
    """Return the two-sided p-value of every column's mean being 0: how often flipped signs bring as much.

    gaps: (rows, k) paired differences, NaN where there is none; clusters: a label for each row, of which all rows are
    flipped together. Were the two systems the same, each input's difference would be as likely the other way round.
    Where none of ``flips`` comes near, the p-value is that of the normal distribution which the sums approach.
    """
    labels, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(labels), gaps.shape[1]))
    np.add.at(sums, cluster_of, np.nan_to_num(gaps))
    seen = np.abs(sums.sum(axis=0))
    slack = 1e-9 * np.abs(sums).sum(axis=0)  # sums of the same numbers in another order differ in their last digits
    random = np.random.default_rng([0, len(labels)])
    count = np.zeros(gaps.shape[1])
    for start in range(0, flips, _CHUNK):
        signs = random.integers(0, 2, size=(min(_CHUNK, flips - start), len(labels))) * 2.0 - 1.0
        count += (np.abs(signs @ sums) >= seen - slack).sum(axis=0)
    spread = np.sqrt((sums**2).sum(axis=0))
    far = [math.erfc(top / (math.sqrt(2) * scale)) if scale else 1.0 for top, scale in zip(seen, spread, strict=True)]
    p = (count + 1) / (flips + 1)
    return np.where(count == 0, np.minimum(p, far), p)


def holm(p: Floats) -> Floats:
    """Return p-values corrected for their number (Holm 1979): the chance of one false finding among all stays below."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1.0)
    return corrected
