"""The texts on the page about episodes: kept ones from low to high, and rejected or repaired ones by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from udrl.data.episode import Episode
from udrl.data.rejections import RejectedExample
from udrl.data.rules import MEANINGS
from udrl.eval.pages.episodes_survey import Bin, EpisodesSurvey
from udrl.eval.pages.episodes_tables import ROLES
from udrl.eval.pages.tables import Row, Table

CLIP = 700
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class NamedText:
    """A text, what it is, and the colour role of that."""

    name: str
    said: str
    role: str | None = None


@dataclass(frozen=True)
class EpisodeExample:
    """An input with the texts for it, and facts about the last one."""

    input: str
    texts: Sequence[NamedText]
    facts: str


def examples_section(survey: EpisodesSurvey) -> dict[str, Any]:
    """Return examples of each bin of each task, the highest bin first."""
    return {
        "by": survey.by or "length",
        "tasks": {
            task: [_bin(part, whole=survey.by is None) for part in reversed(bins)] for task, bins in survey.bins.items()
        },
    }


def rejected_section(survey: EpisodesSurvey) -> dict[str, Any]:
    """Return how many responses each rule rejected or repaired, with examples."""
    report = survey.rejected
    rows = [
        Row(rule, [f"{count:,}", f"{100 * count / report.total:.1f}\N{NO-BREAK SPACE}%"], prose=_meaning(rule))
        for rule, count in report.counts.items()
    ]
    return {
        "responses": f"{report.total:,}",
        "table": Table("Rules", ["Rule", "Responses", "Share"], rows, prose="What it says"),
        "examples": {rule: [_rejected(one) for one in report.examples if one.rule == rule] for rule in report.counts},
    }


def _bin(part: Bin, *, whole: bool) -> dict[str, Any]:
    low, high = (f"{value:.0f}" if whole else f"{value:.2f}" for value in (part.low, part.high))
    return {
        "span": low if low == high else f"{low} to {high}",
        "count": f"{part.count:,}",
        "examples": [_kept(episode) for episode in part.examples],
    }


def _kept(episode: Episode) -> EpisodeExample:
    scores = [f"{name} {value:.2f}" for name, value in episode.returns.items() if value is not None]
    facts = [*scores, f"{episode.horizon} words", f"by {episode.teacher}", episode.split]
    text = NamedText(episode.origin, _clipped(episode.completion), ROLES[episode.origin])
    return EpisodeExample(_clipped(episode.input), [text], " · ".join(facts))


def _rejected(example: RejectedExample) -> EpisodeExample:
    texts = [NamedText("written", _clipped(example.completion))]
    if example.written is not None:
        texts = [
            NamedText("written", _clipped(example.written)),
            NamedText("kept as", _clipped(example.completion)),
        ]
    return EpisodeExample(_clipped(example.input), texts, f"{example.task} · by {example.teacher}")


def _clipped(text: str) -> str:
    text = text.strip() or "(nothing)"
    return text if len(text) <= CLIP else f"{text[: CLIP - 120]} […] {text[-100:]}"


def _meaning(name: str) -> str:
    kind, repaired, rule = name.partition(":")
    rule = rule if repaired else kind
    meaning = MEANINGS.get(rule, "")
    return f"repaired: {meaning}" if repaired else meaning
