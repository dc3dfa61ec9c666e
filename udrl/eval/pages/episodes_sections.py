"""The sections of the page about episodes. Each function returns HTML in which every text from outside is escaped."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from udrl.data.cleaning import RULES
from udrl.data.dataset_card import OTHER_RULES, SPLITS
from udrl.data.episodes import Episode
from udrl.data.hygiene import STAGE, said
from udrl.data.rejections import RejectedExample
from udrl.data.statistics import Values, quantiles
from udrl.eval.pages.charts import Bars, histogram_chart
from udrl.eval.pages.episodes_survey import MAX_ROWS, MAX_TASKS, Bin, Look, length_correlation
from udrl.eval.pages.markup import ABSENT, definitions, legend, number, percent, row_of, table_of

ROLES = {"teacher": "student", "mismatched": "reference", "truncated": "baseline", "student": "good"}
"""Colour of each origin."""

MEANINGS = {
    "teacher": "as a teacher wrote it",
    "mismatched": "derived: another input's completion",
    "truncated": "derived: cut off",
    "student": "written by the student in a round of improvement",
}
CLIP = 700
"""Characters of a text that are shown."""

_BARS = 24


def counts_section(found: Look) -> str:
    """Return how many episodes there are by task, split and origin."""
    meter = found.meter

    def line(name: str, task: str | None) -> str:
        cells = [
            f"{meter.count(task=task):,}",
            f"{meter.count(task=task, kept=False):,}",
            *(f"{meter.count(task=task, split=split):,}" for split in SPLITS),
            *(f"{meter.count(task=task, origin=origin):,}" for origin in meter.origins),
        ]
        return row_of(name, cells)

    rows = [line(escape(task), task) for task in meter.tasks[:MAX_ROWS]]
    if len(meter.tasks) > 1:
        rows.append(line("all tasks", None))
    head = ["Task", "Episodes", "Rejected", *SPLITS, *meter.origins]
    note = "The split is a function of the input, so no input stands on both sides."
    return f'<section id="counts"><h2>Counts</h2><p>{note}</p>{table_of("Counts", head, rows)}{_more(found)}</section>'


def returns_section(found: Look) -> str:
    """Return for every reward its histograms by task and origin, with quantiles and what it depends on."""
    parts = ['<section id="returns"><h2>Returns</h2>']
    if found.by is None:
        parts.append("<p>No episode is scored yet: <code>udrl score</code> does that, and asks no teacher.</p>")
    else:
        parts.append(
            "<p>What the kept episodes achieved. Commands can ask for what lies within these ranges; where a task has "
            "no bars, a student sees no example.</p>"
        )
    for name in found.meter.reward_names:
        if found.meter.scored(name):
            parts.append(f"<h3>{escape(name)}</h3>{_return_table(found, name)}{_legend(found)}")
            parts.append(_charts(found, name))
    return "".join(parts) + "</section>"


def lengths_section(found: Look) -> str:
    """Return the histograms of lengths with their quantiles."""
    rows = (
        row_of(escape(task), (*_quantiles(found.meter.lengths(task, ("teacher", "student")), 0),))
        for task in found.meter.tasks[:MAX_ROWS]
    )
    table = table_of("Lengths", ["Task", "10 %", "Median", "90 %"], rows)
    return (
        '<section id="lengths"><h2>Lengths</h2><p>Words of the kept completions; the table leaves derived ones out. '
        f"Lengths above the 99 % quantile stand in the last bar.</p>{table}{_legend(found)}{_charts(found, None)}"
        "</section>"
    )


def writers_section(found: Look) -> str:
    """Return what each teacher wrote under each of its settings."""
    names = [name for name in found.meter.reward_names if found.meter.scored(name)]
    ranked = sorted(found.settings.items(), key=operator.itemgetter(0))
    rows = []
    for (teacher, setting), part in ranked[:MAX_ROWS]:
        means = (number(part.returns[name] / part.scored[name] if part.scored[name] else None) for name in names)
        words = number(part.words / part.kept if part.kept else None, 1)
        head = escape(teacher) + (f'<span class="kind">{escape(setting)}</span>' if setting else "")
        share = percent(1 - part.kept / part.written)
        rows.append(row_of(head, (f"{part.written:,}", share, words, *means)))
    headings = [
        "Teacher and setting",
        "Episodes",
        "Rejected",
        "Mean length",
        *(f"Mean {escape(name)}" for name in names),
    ]
    left = len(ranked) - MAX_ROWS
    note = f'<p class="small muted">{left:,} more settings are not shown.</p>' if left > 0 else ""
    return (
        '<section id="writers"><h2>Who wrote, and how</h2><p>Settings that differ in what they achieve are what '
        "commands are learned from. Derived episodes are left out.</p>"
        f"{table_of('Writers', headings, rows)}{note}</section>"
    )


def examples_section(found: Look) -> str:
    """Return examples of each bin of each task."""
    by = found.by or "length"
    parts = [
        '<section id="examples"><h2>Examples</h2>',
        f"<p>A few kept episodes from each fifth of {escape(by)}, drawn by a hash, not chosen. Is what stands higher "
        "up here what you would call better?</p>",
    ]
    for number_, (task, bins) in enumerate(found.bins.items()):
        shown = "".join(_bin(part, by, found.by is None) for part in reversed(bins))
        parts.append(f"<details{'' if number_ else ' open'}><summary>{escape(task)}</summary>{shown}</details>")
    return "".join(parts) + _more(found) + "</section>"


def rejected_section(found: Look) -> str:
    """Return how many responses each rule rejected or repaired, with examples."""
    report = found.rejected
    parts = ['<section id="rejected"><h2>Rejected and repaired</h2>']
    if not report.counts:
        parts.append(f"<p>None of {report.total:,} responses was rejected or repaired.</p>")
        return "".join(parts) + "</section>"
    rows = (
        row_of(
            escape(name), (f"{count:,}", f"{100 * count / report.total:.1f}\N{NO-BREAK SPACE}%"), text=_meaning(name)
        )
        for name, count in report.counts.items()
    )
    parts.append(
        f"<p>Of {report.total:,} responses. <code>udrl synth --show-rejected RULE</code> shows more of each.</p>"
        + table_of("Rules", ["Rule", "Responses", "Share", "What it says"], rows)
    )
    for name in report.counts:
        examples = "".join(_rejected(example) for example in report.examples if example.rule == name)
        parts.append(f"<details><summary>{escape(name)}</summary>{examples}</details>")
    return "".join(parts) + "</section>"


def hygiene_section(found: Look) -> str:
    """Return what was done about duplicates, benchmark inputs and personal data, and where the episodes come from."""
    stages = found.facts["stages"]
    synth = stages.get("synth", {})
    pairs: list[tuple[str, str]] = []
    if duplicates := synth.get("duplicates"):
        dropped = f"{duplicates['exact']:,} equal to an earlier one, {duplicates['near']:,} nearly so"
        pairs.append(("Inputs that were left out", dropped))
    if "invented" in synth:
        pairs.append(("Inputs that were invented", f"{synth['invented']:,}"))
    pairs += [(name[0].upper() + name[1:], str(value)) for name, value in said(stages.get(STAGE, {})).items()]
    masked = {name.partition(":")[2]: count for name, count in found.counts.items() if name.startswith("masked:")}
    if masked:
        pairs.append(("Episodes with masked data", ", ".join(f"{kind} {n:,}" for kind, n in sorted(masked.items()))))
    for name, card in synth.get("teachers", {}).items():
        pairs.append((f"Teacher {name}", f"{card['model']}, {card['licence']}: {card['outputs']}"))
    score = stages.get("score")
    if score:
        for reward in score["rewards"]:
            pairs.append(
                (f"Reward {reward['name']}", f"{reward['source']}, in [{reward['low']:g}, {reward['high']:g}]")
            )
        if score.get("encoder"):
            pairs.append(("Encoder", f"{score['encoder']['name']}, {score['encoder']['precision']}"))
    if "seed" in synth:
        pairs.append(("Seed", str(synth["seed"])))
    return f'<section id="hygiene"><h2>Hygiene and origin</h2>{definitions(pairs, columns=True)}</section>'


# -- parts ----------------------------------------------------------------------------------------------


def _return_table(found: Look, name: str) -> str:
    spread = found.spreads.get(name)
    rows = []
    for task in found.meter.tasks[:MAX_ROWS]:
        values = found.meter.returns(task, name, ("teacher", "student"))
        share = spread.by_task.get(task) if spread else None
        unscored = int(np.count_nonzero(np.isnan(values)))
        rows.append(
            row_of(
                escape(task),
                (
                    *_quantiles(values, 2),
                    percent(share),
                    number(length_correlation(found.meter, task, name)),
                    f"{unscored:,}",
                ),
            )
        )
    head = ["Task", "10 %", "Median", "90 %", "Variance within inputs", "Correlation with length", "Not scored"]
    table = table_of(f"Returns: {name}", head, rows)
    return (
        f'{table}<p class="small muted">Derived episodes are left out. The share of the variance that lies within '
        "inputs is what a command can be learned from; the correlation is of ranks, between -1 and 1.</p>"
    )


def _charts(found: Look, name: str | None) -> str:
    """A histogram of the return ``name`` (None: the length) for each task."""
    pictures = []
    for task in found.meter.tasks[:MAX_TASKS]:
        values = {
            origin: found.meter.lengths(task, (origin,)) if name is None else found.meter.returns(task, name, (origin,))
            for origin in found.meter.origins
        }
        known = np.concatenate(list(values.values()))
        known = known[~np.isnan(known)]
        if not len(known):
            continue
        edges = _length_edges(known) if name is None else _return_edges(known)
        parts = [
            Bars(
                origin,
                np.histogram(np.clip(part[~np.isnan(part)], edges[0], edges[-1]), edges)[0].tolist(),
                ROLES[origin],
            )
            for origin, part in values.items()
        ]
        chart = histogram_chart(edges, parts, title=task, name="words" if name is None else name)
        pictures.append(f"<figure>{chart}</figure>")
    return f'<div class="charts">{"".join(pictures)}</div>'


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


def _legend(found: Look) -> str:
    return legend((ROLES[origin], f"{origin}: {MEANINGS[origin]}") for origin in found.meter.origins)


def _bin(part: Bin, by: str, whole: bool) -> str:
    low, high = (f"{value:.0f}" if whole else f"{value:.2f}" for value in (part.low, part.high))
    span = low if low == high else f"{low} to {high}"
    head = f'<h3 class="bin">{escape(by)} {span} <span class="muted">({part.count:,} episodes)</span></h3>'
    return head + "".join(map(_example, part.examples))


def _example(episode: Episode) -> str:
    scores = [f"{name} {value:.2f}" for name, value in episode.returns.items() if value is not None]
    facts = [*scores, f"{episode.horizon} words", f"by {episode.teacher}", episode.split]
    return _box(
        episode.input,
        [
            (
                f'<span class="chip" style="background: var(--{ROLES[episode.origin]})"></span>{episode.origin}',
                episode.completion,
            )
        ],
        " · ".join(facts),
    )


def _rejected(example: RejectedExample) -> str:
    lines = [("written", example.completion)]
    if example.written is not None:
        lines = [("written", example.written), ("kept as", example.completion)]
    return _box(example.input, lines, f"{example.task} · by {example.teacher}")


def _box(given: str, lines: Iterable[tuple[str, str]], facts: str) -> str:
    """An input with texts below it; the names of ``lines`` are HTML already."""
    answers = [
        f'<div class="answer"><div>{name}</div><div><div class="said" dir="auto">{escape(_clipped(text))}</div>'
        for name, text in lines
    ]
    body = "</div></div>".join(answers) + f'<div class="scores">{escape(facts)}</div></div></div>'
    return f'<article class="example"><h3 dir="auto">{escape(_clipped(given))}</h3>{body}</article>'


def _clipped(text: str) -> str:
    text = text.strip() or "(nothing)"
    return text if len(text) <= CLIP else f"{text[: CLIP - 120]} […] {text[-100:]}"


def _quantiles(values: Values, digits: int) -> Sequence[str]:
    found = quantiles(values)
    return (ABSENT,) * 3 if found is None else [number(value, digits) for value in found]


def _meaning(name: str) -> str:
    kind, repaired, rule = name.partition(":")
    rule = rule if repaired else kind
    said_of = RULES.get(rule, OTHER_RULES.get(rule, ""))
    return f"repaired: {said_of}" if repaired else said_of


def _more(found: Look) -> str:
    left = len(found.meter.tasks) - MAX_TASKS
    if left <= 0:
        return ""
    return f'<p class="small muted">Pictures and examples are of the {MAX_TASKS} largest tasks; {left:,} have none.</p>'
