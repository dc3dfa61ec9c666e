"""Scores of stored completions: one row of ``scores.parquet`` a row of ``completions.parquet``, in the same
order.

Columns: block, task, input_id, sample, attribute?, level? (as in completions.parquet), then relevance?,
relevance_second?, copy_rate?, novelty?, length?, truncated? (whether the encoder saw only the completion's
start), unknown? (whether the encoder does not know the script of the completion or its input: relevance is then null),
agreement (struct: reference -> mean cosine with that reference's completions for the same
input) and rewards (struct: name -> value, where further rewards were asked for).
Null means not scored: the system failed, or the figure is not needed (a sweep of length needs no
embedding).

Nothing here generates, so stored completions can be scored again with other encoders. Scores are always
computed in float32 arithmetic of the encoder, whatever precision training used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udrl import metrics
from udrl.encoder import Encoder
from udrl.eval.completions import SCHEMA, Completion, write_table
from udrl.eval.systems import RELEVANCE
from udrl.progress import Bar
from udrl.rewards.protocol import Reward, compute_known
from udrl.rewards.relevance import Relevance
from udrl.words import count_words

FILE = "scores.parquet"
COLUMNS = ("relevance", "relevance_second", "copy_rate", "novelty", "length", "truncated", "unknown")
TOGETHER = 1024
"""Completions that an encoder is given at once; no score depends on it."""

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Scores aligned with ``rows``.

    columns: name -> (n,) floats, NaN where not scored; agreement: reference -> (n,) floats; vectors: (n, d)
    unit embeddings of the completions, zero where there is none (a zero row is never used); rewards: name -> (n,)
    floats of further rewards that were asked for.
    """

    rows: tuple[Completion, ...]
    columns: Mapping[str, Floats]
    agreement: Mapping[str, Floats]
    vectors: Vectors
    rewards: Mapping[str, Floats] = field(default_factory=dict)


def score(
    rows: Sequence[Completion],
    *,
    encoder: Encoder,
    second: Encoder | None,
    references: Sequence[str],
    rewards: Mapping[str, Reward] | None = None,
    bar: Bar | None = None,
) -> Scores:
    """Score ``rows`` with the reward's encoder and, where systems are compared, with a ``second`` one.

    references: systems whose completions the others' are compared with (agreement). rewards: what else is computed
    of compared completions, and of those that were commanded in it.
    """
    encoder = _Remembering(encoder)
    second = None if second is None else _Remembering(second)
    answered = [i for i, row in enumerate(rows) if row.completion is not None]
    compared = [i for i in answered if rows[i].part == "comparison"]
    embedded = [i for i in answered if rows[i].part == "comparison" or _needs_relevance(rows[i])]
    columns = {name: np.full(len(rows), np.nan) for name in COLUMNS}
    for i in answered:
        columns["length"][i] = count_words(rows[i].completion or "")
    for i in compared:
        text = rows[i].completion or ""
        columns["copy_rate"][i] = metrics.copy_rate(rows[i].input, text)
        columns["novelty"][i] = metrics.novelty(rows[i].input, text)
    vectors = _embed(rows, embedded, encoder, columns, RELEVANCE, bar)
    if second is not None:
        _embed(rows, compared, second, columns, "relevance_second", None)
    return Scores(
        rows=tuple(rows),
        columns=columns,
        agreement={name: _agreement(rows, compared, vectors, name) for name in references},
        vectors=vectors,
        rewards={name: _rewarded(rows, answered, name, reward) for name, reward in (rewards or {}).items()},
    )


class _Remembering:
    """An encoder that is asked once for each text: most are needed twice, and inputs by every system."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.revision, self.precision = encoder.name, encoder.revision, encoder.precision
        self._encoder = encoder
        self._known: dict[str, Vectors] = {}

    @property
    def truncated(self) -> int:
        return self._encoder.truncated

    def encode(self, texts: Sequence[str]) -> Vectors:
        missing = list(dict.fromkeys(text for text in texts if text not in self._known))
        if missing:
            self._known.update(zip(missing, self._encoder.encode(missing), strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else self._encoder.encode([])

    def is_truncated(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        return self._encoder.is_truncated(texts)

    def is_unknown(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        return self._encoder.is_unknown(texts)


def _rewarded(rows: Sequence[Completion], answered: Sequence[int], name: str, reward: Reward) -> Floats:
    values = np.full(len(rows), np.nan)
    scored = [
        i for i in answered if rows[i].part == "comparison" or name == rows[i].attribute or name in rows[i].targets
    ]
    if scored:
        rewards = compute_known(reward, [rows[i].input for i in scored], [rows[i].completion or "" for i in scored])
        values[scored] = np.asarray(rewards, dtype=np.float64)  # None, not scored, becomes NaN
    return values


def write_scores(folder: Path, scores: Scores, *, encoder: str, second_encoder: str | None) -> None:
    """Write ``scores.parquet`` into ``folder``, atomically."""
    import pyarrow as pa

    names = ("block", "task", "input_id", "sample", "attribute", "level")
    data: dict[str, pa.Array] = {}
    for name in names:
        kind = pa.int32() if name in ("sample", "level") else pa.string()
        data[name] = pa.array([getattr(row, name) for row in scores.rows], kind)
    for name, values in scores.columns.items():
        data[name] = pa.array(values, mask=np.isnan(values))
    for name in ("truncated", "unknown"):
        data[name] = data[name].cast(pa.bool_())
    if scores.agreement:
        parts = [pa.array(values, mask=np.isnan(values)) for values in scores.agreement.values()]
        data["agreement"] = pa.StructArray.from_arrays(parts, names=list(scores.agreement))
    if scores.rewards:
        parts = [pa.array(values, mask=np.isnan(values)) for values in scores.rewards.values()]
        data["rewards"] = pa.StructArray.from_arrays(parts, names=list(scores.rewards))
    about = {"schema": SCHEMA, "encoder": encoder, "second_encoder": second_encoder}
    write_table(folder / FILE, pa.table(data), about)


def _needs_relevance(row: Completion) -> bool:
    """A sweep of relevance, or one in which relevance is commanded at its median while another attribute
    moves.
    """
    return (
        row.attribute == RELEVANCE if row.part != "leakage" else RELEVANCE in row.targets and row.attribute != RELEVANCE
    )


def _embed(
    rows: Sequence[Completion],
    chosen: Sequence[int],
    encoder: Encoder,
    columns: Mapping[str, Floats],
    name: str,
    bar: Bar | None,
) -> Vectors:
    """Embed the chosen completions and fill in their relevance to the input; returns (len(rows), d)."""
    if not chosen:
        return np.zeros((len(rows), 1), dtype=np.float32)
    relevance = Relevance(encoder)
    parts = []
    for start in range(0, len(chosen), TOGETHER):
        batch = chosen[start : start + TOGETHER]
        texts = [rows[i].completion or "" for i in batch]
        given = [rows[i].input for i in batch]
        scorable = np.array(relevance.scorable(given, texts))
        columns[name][batch] = np.where(scorable, relevance(given, texts), np.nan)
        parts.append(encoder.encode(texts))  # encoded just before: the encoder keeps what it has seen
        if name == RELEVANCE:
            columns["truncated"][batch] = encoder.is_truncated(texts)
            columns["unknown"][batch] = ~scorable
        if bar is not None:
            bar.update(len(texts))
    written = np.concatenate(parts)
    vectors = np.zeros((len(rows), written.shape[1]), dtype=np.float32)
    vectors[chosen] = written
    # An empty completion is about nothing: no direction, as it has no relevance.
    vectors[[i for i in chosen if not (rows[i].completion or "").strip()]] = 0.0
    return vectors


def _agreement(rows: Sequence[Completion], compared: Sequence[int], vectors: Vectors, reference: str) -> Floats:
    """Mean cosine of each completion with the reference's for the same input.

    For the reference itself, with its *other* completions: the ceiling that two draws of one system reach.
    """
    result = np.full(len(rows), np.nan)
    theirs: dict[tuple[str, str], list[int]] = {}
    for i in compared:
        if rows[i].system == reference:
            theirs.setdefault((rows[i].task, rows[i].input_id), []).append(i)
    for i in compared:
        others = [j for j in theirs.get((rows[i].task, rows[i].input_id), ()) if j != i]
        if others:
            result[i] = float(np.mean(vectors[others] @ vectors[i]))
    return result
