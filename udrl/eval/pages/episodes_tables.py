"""The tables and histograms of the page about episodes."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from markupsafe import Markup

from udrl.data.episode import DERIVED, SPLITS
from udrl.data.hygiene import said
from udrl.data.statistics import Values, quantiles
from udrl.eval.pages.charts import Bars, histogram_chart
from udrl.eval.pages.episodes_survey import MAX_ROWS, MAX_TASKS, EpisodesSurvey, length_correlation
from udrl.eval.pages.tables import ABSENT, Cell, Row, Table, number, percent

ROLES = {
    "teacher": "student",
    "mismatched": "reference",
    "truncated": "baseline",
    "spliced": "bad",
    "student": "good",
}
"""Colour of each origin."""

MEANINGS = {
    "teacher": "as a teacher wrote it",
    "mismatched": "derived: another input's completion",
    "truncated": "derived: ends behind an earlier sentence or clause",
    "spliced": "derived: a share of its sentences, the rest another input's",
    "student": "written by the student in a round of improvement",
}
_BARS = 24
_QUANTILES = ("10 %", "Median", "90 %")


def counts_table(survey: EpisodesSurvey) -> Table:
    """Return how many episodes there are by task, split and origin."""
    meter = survey.meter

    def row(name: str, task: str | None) -> Row:
        counts = [
            meter.count(task=task),
            meter.count(task=task, kept=False),
            *(meter.count(task=task, split=split) for split in SPLITS),
            *(meter.count(task=task, origin=origin) for origin in meter.origins),
        ]
        return Row(name, [f"{count:,}" for count in counts])

    rows = [row(task, task) for task in meter.tasks[:MAX_ROWS]]
    if len(meter.tasks) > 1:
        rows.append(row("all tasks", None))
    return Table("Counts", ["Task", "Episodes", "Rejected", *SPLITS, *meter.origins], rows)


def returns_sections(survey: EpisodesSurvey) -> list[dict[str, Any]]:
    """Return for every reward its histograms by task and origin, with quantiles and what it depends on."""
    return [
        {
            "name": name,
            "table": _returns_table(survey, name),
            "variance": _variance_table(survey, name),
            "charts": _charts(survey, name),
        }
        for name in survey.meter.reward_names
        if survey.meter.scored(name)
    ]


def lengths_section(survey: EpisodesSurvey) -> dict[str, Any]:
    """Return the histograms of lengths with their quantiles."""
    meter = survey.meter
    rows = [Row(task, _quantiles(meter.lengths(task, ("teacher", "student")), 0)) for task in meter.tasks[:MAX_ROWS]]
    return {"table": Table("Lengths", ["Task", *_QUANTILES], rows), "charts": _charts(survey, None)}


def writers_table(survey: EpisodesSurvey) -> Table:
    """Return what each teacher wrote under each of its settings, those of MAX_ROWS."""
    names = [name for name in survey.meter.reward_names if survey.meter.scored(name)]
    rows = []
    for (teacher, setting), part in sorted(survey.settings.items(), key=operator.itemgetter(0))[:MAX_ROWS]:
        means = [number(part.returns[name] / part.scored[name] if part.scored[name] else None) for name in names]
        words = number(part.words / part.kept if part.kept else None, 1)
        share = percent(1 - part.kept / part.written)
        rows.append(Row(Cell(teacher, (setting,) if setting else ()), [f"{part.written:,}", share, words, *means]))
    headings = ["Teacher and setting", "Episodes", "Rejected", "Mean length", *(f"Mean {name}" for name in names)]
    return Table("Writers", headings, rows)


def hygiene(survey: EpisodesSurvey) -> list[tuple[str, str]]:
    """Return what was done about duplicates, benchmark inputs and personal data, and where the episodes come from."""
    facts, synth = survey.facts, survey.facts.synth
    pairs: list[tuple[str, str]] = []
    if synth.KEY in facts.stages:
        dropped = f"{synth.duplicates.exact:,} equal to an earlier one, {synth.duplicates.near:,} nearly so"
        pairs.append(("Inputs that were left out", dropped))
        pairs.append(("Inputs that were invented", f"{synth.invented:,}"))
    if facts.hygiene.KEY in facts.stages:
        pairs += [(name[0].upper() + name[1:], str(value)) for name, value in said(facts.hygiene).items()]
    masked = {name.partition(":")[2]: count for name, count in survey.counts.items() if name.startswith("masked:")}
    if masked:
        pairs.append(("Episodes with masked data", ", ".join(f"{kind} {n:,}" for kind, n in sorted(masked.items()))))
    for name, card in synth.teachers.items():
        pairs.append((f"Teacher {name}", f"{card.model}, {card.licence}: {card.outputs}"))
    for reward in facts.score.rewards:
        pairs.append((f"Reward {reward.name}", f"{reward.source}, in [{reward.low:g}, {reward.high:g}]"))
    if (encoder := facts.score.encoder) is not None:
        pairs.append(("Encoder", f"{encoder.name}, {encoder.precision}"))
    if synth.KEY in facts.stages:
        pairs.append(("Seed", str(synth.seed)))
    return pairs


def _returns_table(survey: EpisodesSurvey, name: str) -> Table:
    spread = survey.spreads.get(name, {}).get("teacher")
    rows = []
    for task in survey.meter.tasks[:MAX_ROWS]:
        values = survey.meter.returns(task, name, ("teacher", "student"))
        share = percent(spread.by_task.get(task) if spread else None)
        correlation = number(length_correlation(survey.meter, task, name))
        unscored = f"{int(np.count_nonzero(np.isnan(values))):,}"
        rows.append(Row(task, [*_quantiles(values, 2), share, correlation, unscored]))
    headings = ["Task", *_QUANTILES, "Variance within inputs", "Correlation with length", "Not scored"]
    return Table(f"Returns: {name}", headings, rows)


def _variance_table(survey: EpisodesSurvey, name: str) -> Table | None:
    """Return which share of the variance lies within inputs, with each kind of derived episodes; None without any."""
    meter, spreads = survey.meter, survey.spreads.get(name, {})
    kinds = [origin for origin in meter.origins if origin in DERIVED]
    if not kinds or not spreads:
        return None
    columns = {"As written": "teacher", **{f"With {kind}": kind for kind in kinds}, "With all": "all"}
    shown = [spreads.get(kind) for kind in columns.values()]
    rows = [
        Row(task, [percent(one.by_task.get(task) if one else None) for one in shown]) for task in meter.tasks[:MAX_ROWS]
    ]
    if len(meter.tasks) > 1:
        rows.append(Row("all tasks", [percent(one.overall if one else None) for one in shown]))
    return Table(f"Variance within inputs: {name}", ["Task", *columns], rows)


def _quantiles(values: Values, digits: int) -> list[str]:
    known = quantiles(values)
    return [ABSENT] * 3 if known is None else [number(value, digits) for value in known]


def _charts(survey: EpisodesSurvey, name: str | None) -> list[Markup]:
    """A histogram of the return ``name`` (None: the length) for each task."""
    meter = survey.meter
    charts = []
    for task in meter.tasks[:MAX_TASKS]:
        values = {
            origin: meter.lengths(task, (origin,)) if name is None else meter.returns(task, name, (origin,))
            for origin in meter.origins
        }
        values = {origin: part[~np.isnan(part)] for origin, part in values.items()}
        known = np.concatenate(list(values.values()))
        if not len(known):
            continue
        edges = _length_edges(known) if name is None else _return_edges(known)
        parts = [
            Bars(origin, np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0].tolist(), ROLES[origin])
            for origin, part in values.items()
        ]
        charts.append(histogram_chart(edges, parts, title=task, name="words" if name is None else name))
    return charts


def _length_edges(values: Values) -> list[float]:
    """Whole numbers of words a bar, so that no bar is higher only because it holds more of them."""
    low, high = int(values.min()), int(np.ceil(np.quantile(values, 0.99)))
    width = max(1, -(-(high - low + 1) // _BARS))
    return [low - 0.5 + width * step for step in range(-(-(high - low + 1) // width) + 1)]


def _return_edges(values: Values) -> list[float]:
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low == high:
        low, high = low - 0.5, high + 0.5
    return [float(edge) for edge in np.linspace(low, high, _BARS + 1)]
