"""The built-in teacher: writes and invents by rules, on any machine, without weights. It is no LLM."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from udrl.data.hashing import hash_hex
from udrl.data.tasks import Task, seeds
from udrl.errors import TaskError, unknown
from udrl.teacher.base import Reply, Request
from udrl.teacher.builtin.inventor import invent, made_up_word, vocabulary
from udrl.teacher.builtin.phrases import content_phrases, foreign_passages
from udrl.teacher.builtin.writer import write
from udrl.words import count_words

__all__ = ["BuiltinTeacher", "content_phrases", "invent", "lexicon_hash", "made_up_word", "vocabulary", "write"]

VERSION = "2"
"""Part of every ledger key: raised whenever the rules change what is written."""


def lexicon_hash(task: Task) -> str:
    """Return what of a task decides the words that this teacher writes: part of the keys of the task's requests."""
    words = () if task.lexicon is None else astuple(task.lexicon)
    return hash_hex(*words, *seeds(task))


class BuiltinTeacher:
    """Rule-based teacher for ``tasks``; deterministic: a request's seed alone decides what is written."""

    name = "builtin"
    model = "builtin"
    revision: str | None = VERSION
    engine_arguments: Mapping[str, Any] = {}
    gpus = 0

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._foreign: dict[str, list[str]] = {}

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Spread fidelity evenly over the samples of an input, and length (log-uniform) over the lower half of the
        task's bounds: what this teacher adds beyond is style alone."""
        rng = random.Random(f"sampling/{seed}")
        low, high = ((1.0, 1.0), (0.65, 0.95), (0.3, 0.65), (0.0, 0.3))[index % 4]
        words = math.exp(rng.uniform(math.log(min_words), math.log((min_words + max_words) / 2)))
        return {"fidelity": round(rng.uniform(low, high), 3), "words": round(words)}

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Full fidelity at natural length."""
        return {"fidelity": 1.0, "words": None}

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Write every request in order; raises UsageError for a task that this teacher was not given."""
        for request in requests:
            started = time.time()
            task = self._tasks.get(request.task)
            if task is None:
                raise unknown("task", request.task, self._tasks)
            if task.lexicon is None:
                raise TaskError(
                    f"{task.path}: task '{task.name}' has no lexicon, which the built-in teacher writes from"
                )
            completion = write(
                request.input,
                task.lexicon,
                fidelity=float(request.sampling["fidelity"]),
                words=request.sampling["words"],
                bounds=(task.min_words, task.max_words),
                foreign=self._foreign_passages(task),
                rng=random.Random(request.seed),
            )
            yield Reply(
                key=request.key,
                completion=completion,
                finish_reason="stop",
                prompt_tokens=count_words(request.input),
                completion_tokens=count_words(completion),
                started=started,
                seconds=time.time() - started,
            )

    def close(self) -> None:
        """Nothing is held."""

    def _foreign_passages(self, task: Task) -> list[str]:
        if task.name not in self._foreign:
            self._foreign[task.name] = foreign_passages(seeds(task))
        return self._foreign[task.name]
