"""An LLM as judge: which of two completions it prefers, asked twice with their places swapped.

Judges favour what stands first, so that a preference counts as one only as far as it survives the swap; how often it
does is reported beside it (Zheng et al. 2023, arXiv 2306.05685). Every judgement is kept in ``judgements.jsonl`` of the
benchmark under a key of all that decided it, and is never paid for twice.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from udrl.bootstrap import length_controlled, mean_intervals
from udrl.data.hashing import hash_hex, hash_int
from udrl.errors import RunError
from udrl.eval.completions import Completion
from udrl.files import disk_errors
from udrl.teacher.protocol import Request

if TYPE_CHECKING:
    from udrl.eval.scores import Scores
    from udrl.progress import Bar
    from udrl.teacher.protocol import Teacher

FILE = "judgements.jsonl"
SAMPLING = {"temperature": 0.0, "max_tokens": 64}
PROMPT = """\
Two texts, A and B, were written for the same request. Which one answers it better: which is more faithful to what was \
asked, more useful and better written? Their order says nothing, and longer is not better.

Request:
{request}

Text A:
{first}

Text B:
{second}

Answer with one letter and nothing else: A, B, or T for a tie."""

_VERDICT = re.compile(r"\W*(?:(?:the|better|answer|verdict|text|is)\W+)*(A|B|T|TIE)\W*", re.IGNORECASE)
_POINTS = {"A": 1.0, "B": 0.0, "T": 0.5, "TIE": 0.5}


@dataclass(frozen=True)
class Pair:
    """The two completions that are compared for one item, and the texts to ask with: ``system`` first, then second."""

    system: str
    reference: str
    task: str
    input_id: str
    requests: tuple[Request, Request]


def pairs_of(
    rows: Sequence[Completion], compared: Sequence[tuple[str, str]], request: Callable[[str, str], str], *, model: str
) -> list[Pair]:
    """Return what is to be judged: for each (system, reference) of ``compared`` the first completions of every item.

    request: (task, input) -> what was asked for; model: of the judge, part of the keys.
    """
    first: dict[tuple[str, str, str], Completion] = {}
    for row in rows:
        if row.part == "comparison" and row.completion is not None:
            first.setdefault((row.system, row.task, row.input_id), row)
    pairs = []
    for system, reference in compared:
        for (of, task, input_id), ours in first.items():
            theirs = first.get((reference, task, input_id))
            if of != system or theirs is None:
                continue
            asked = request(task, ours.input)
            texts = (ours.completion or "", theirs.completion or "")
            both = (_request(ours, asked, texts, model), _request(ours, asked, texts[::-1], model))
            pairs.append(Pair(system, reference, task, input_id, both))
    return pairs


def _request(row: Completion, asked: str, texts: tuple[str, ...], model: str) -> Request:
    text = PROMPT.format(request=asked, first=texts[0], second=texts[1])
    key = hash_hex("judge", model, text, sorted(SAMPLING.items()), size=16)
    seed = hash_int("judge", key, bits=31)
    messages = ({"role": "user", "content": text},)
    return Request(key, row.task, row.input_id, row.input, messages, dict(SAMPLING), seed, 0)


def ask_judge(folder: Path, writer: Teacher, pairs: Sequence[Pair], *, bar: Bar | None = None) -> int:
    """Ask for the judgements that are not there yet, keep each as it comes, and return how many were asked for.

    Raises TeacherError where the judge cannot be asked, RunError where ``judgements.jsonl`` cannot be written.
    """
    known = _kept(folder)
    todo = {
        request.key: request for pair in pairs for request in pair.requests if known.get(request.key) is None
    }  # what failed before is asked for again
    if not todo:
        return 0
    path = folder / FILE
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        for reply in writer.generate(todo.values()):
            request = todo[reply.key]
            line = {
                "schema": 1,
                "key": reply.key,
                "judge": writer.name,
                "model": writer.model,
                "task": request.task,
                "input_id": request.input_id,
                "reply": reply.completion,
                "points": read_points(reply.completion),
                "error": reply.error,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
            }
            # in ASCII, which also has a form for half of a character, as a broken server may send it
            file.write(json.dumps(line) + "\n")
            file.flush()
            if bar is not None:
                bar.update(1)
    return len(todo)


def read_points(reply: str | None) -> float | None:
    """Return what the completion shown first gets: 1 it is better, 0 the other is, 1/2 a tie; None: cannot be read."""
    lines = [line for line in (reply or "").strip().splitlines() if line.strip()]
    for line in (lines[-1:] + lines[:1]) if lines else ():
        if verdict := _VERDICT.fullmatch(line):
            return _POINTS[verdict.group(1).upper()]
    return None


def figures(folder: Path, name: str, model: str, *, scores: Scores, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return ``judge`` of summary.json from the judgements that are kept; see docs/benchmark.md for its keys."""
    known = _kept(folder)
    relevance = first_by_item(scores, scores.columns["relevance"])
    lengths = first_by_item(scores, scores.columns["length"])
    grouped: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        grouped.setdefault((pair.system, pair.reference), []).append(pair)
    by_system: dict[str, Any] = {}
    for (system, reference), compared in grouped.items():
        rows = []
        for pair in compared:
            ours, theirs = (known.get(request.key) for request in pair.requests)
            if ours is None or theirs is None:
                continue
            here, there = ((who, pair.task, pair.input_id) for who in (system, reference))
            rows.append(
                (pair.input_id, ours, 1 - theirs, lengths[here] - lengths[there], relevance[here] - relevance[there])
            )
        by_system.setdefault(system, {})[reference] = _one(rows, failed=len(compared) - len(rows))
    return {"name": name, "model": model, "systems": by_system}


def _one(rows: Sequence[tuple[str, float, float, float, float]], *, failed: int) -> dict[str, Any]:
    """The figures of one pair of systems. rows: input id, points when shown first and second, both gaps."""
    if not rows:
        empty = ("win_rate", "length_controlled_win_rate", "consistency", "agreement")
        nothing = {key: None for name in empty for key in (name, f"{name}_ci95")}
        return {"items": 0, "failed": failed, **nothing, "ties": None, "first_position": None}
    clusters = [row[0] for row in rows]
    shown_first, shown_second, longer, nearer = np.array([row[1:] for row in rows], dtype=np.float64).T
    points = (shown_first + shown_second) / 2
    consistent = (shown_first == shown_second).astype(np.float64)
    decided = (points != 0.5) & (nearer != 0)
    agreeing = np.where(decided, (points > 0.5) == (nearer > 0), np.nan)
    means = mean_intervals(np.stack([points, consistent, agreeing], axis=1), clusters)
    controlled = length_controlled(points[:, None], longer[:, None], clusters)
    verdicts = np.concatenate([shown_first, 1 - shown_second])  # of the completion that stood first
    clear = verdicts != 0.5
    return {
        "items": len(rows),
        "failed": failed,
        **means.named(0, "win_rate", "win_rate_ci95"),
        **controlled.named(0, "length_controlled_win_rate", "length_controlled_win_rate_ci95"),
        **means.named(1, "consistency", "consistency_ci95"),
        "ties": float(np.mean(~clear)),
        "first_position": float(np.mean(verdicts[clear])) if clear.any() else None,
        **means.named(2, "agreement", "agreement_ci95"),
    }


def first_by_item(scores: Scores, values: Any) -> Mapping[tuple[str, str, str], float]:
    """Return (system, task, input_id) -> the value of its first completion; values: one a row of ``scores``."""
    first: dict[tuple[str, str, str], float] = {}
    for row, value in zip(scores.rows, values, strict=True):
        if row.part == "comparison" and row.completion is not None:
            first.setdefault((row.system, row.task, row.input_id), float(value))
    return first


def _kept(folder: Path) -> dict[str, float]:
    """Return the points of every judgement that is kept and could be read."""
    return {line["key"]: line["points"] for line in _lines(folder / FILE) if line["points"] is not None}


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.exists():
        return
    whole = path.read_bytes()
    if not whole.endswith(b"\n"):  # a kill left half a line, which would spoil the next one
        whole = whole[: whole.rfind(b"\n") + 1]
        with disk_errors(path):
            os.truncate(path, len(whole))
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}, line {number}: is damaged ({error}): remove that line") from error
