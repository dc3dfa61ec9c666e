"""The baselines that expose a gamed score: each function returns one block of completions.

``echo`` repeats the input, ``shuffled`` answers with the reference's completion for another input,
``nearest`` with that of the nearest training input.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from udrl.eval.completions import Block, Completion, SystemFacts
from udrl.eval.suites import Item
from udrl.eval.systems import RELEVANCE

if TYPE_CHECKING:
    from udrl.data.episode import Episode
    from udrl.encoder import Encoder


def echo_block(items: Sequence[Item], *, key: str) -> Block:
    """Answer with the input itself: perfect relevance, and worth nothing."""
    rows = [_given("echo", item, 0, item.input) for item in items]
    return Block("echo", key, SystemFacts("echo", "baseline"), tuple(rows))


def shuffled_block(reference: Sequence[Completion], *, key: str, seed: int) -> Block:
    """Answer with the reference's completion for another input of the same task: the floor of relevance."""
    rows: list[Completion] = []
    by_task: dict[str, list[Completion]] = {}
    for row in reference:
        if row.completion is not None:
            by_task.setdefault(row.task, []).append(row)
    for task, written in by_task.items():
        inputs = sorted({row.input_id for row in written})
        if len(inputs) < 2:
            continue
        random.Random(f"shuffled/{seed}/{task}").shuffle(inputs)
        donor = dict(zip(inputs, inputs[1:] + inputs[:1], strict=True))  # a single cycle: nobody keeps its own
        texts = {(row.input_id, row.sample): row.completion for row in written}
        spare = {row.input_id: row.completion for row in written}
        for row in written:
            source = donor[row.input_id]
            text = texts.get((source, row.sample), spare[source])
            rows.append(_given("shuffled", Item(task, row.input_id, row.input), row.sample, text or ""))
    return Block("shuffled", key, SystemFacts("shuffled", "baseline"), tuple(rows))


def nearest_block(items: Sequence[Item], episodes: Sequence[Episode], encoder: Encoder, *, key: str) -> Block:
    """Answer with the best completion of the nearest training input of the same task: what memory alone
    achieves.

    episodes: kept training episodes that a teacher wrote. Of a neighbour's several completions the most
    relevant one is taken, so that the baseline is as strong as the data allows.
    """
    from sklearn.neighbors import NearestNeighbors

    rows: list[Completion] = []
    for task in dict.fromkeys(item.task for item in items):
        best: dict[str, Episode] = {}
        for episode in episodes:
            if episode.task == task:
                rival = best.get(episode.input_id)
                if rival is None or _relevance(episode) > _relevance(rival):
                    best[episode.input_id] = episode
        asked = [item for item in items if item.task == task]
        if not best:
            continue
        known = list(best.values())
        index = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute")
        index.fit(encoder.encode([episode.input for episode in known]))
        _, nearest = index.kneighbors(encoder.encode([item.input for item in asked]))
        rows += [_given("nearest", item, 0, known[i].completion) for item, (i,) in zip(asked, nearest, strict=True)]
    return Block("nearest", key, SystemFacts("nearest", "baseline"), tuple(rows))


def _relevance(episode: Episode) -> float:
    value = episode.returns.get(RELEVANCE)
    return -1.0 if value is None else value


def _given(system: str, item: Item, sample: int, text: str) -> Completion:
    return Completion(system, system, "comparison", item.task, item.input_id, item.input, sample, 0, text)
