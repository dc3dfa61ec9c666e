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
from udrl.teacher.backends.builtin import arithmetic, instructions
from udrl.teacher.backends.builtin.inventor import invent, made_up_word, vocabulary
from udrl.teacher.backends.builtin.phrases import content_phrases, foreign_passages
from udrl.teacher.backends.builtin.writer import write
from udrl.teacher.protocol import Reply, Request
from udrl.words import count_words

__all__ = [
    "BuiltinTeacher",
    "content_phrases",
    "invent",
    "invented",
    "lexicon_hash",
    "made_up_word",
    "vocabulary",
    "write",
]

VERSION = "2"
"""Part of every ledger key: raised whenever the rules change what is written."""


GENERATOR_VERSION = "1"
"""Part of the ledger keys of generated tasks: raised whenever their rules change what is written."""


def invented(task: Task, *, seeds: Sequence[str], seed: int) -> Iterator[str]:
    """Yield inputs for ``task`` without end, by its generator or, without one, as ``invent`` does from ``seeds``."""
    if task.generator == "arithmetic":
        return arithmetic.invent(task.name, seed=seed)
    if task.generator == "instructions":
        return instructions.invent(task.name, seed=seed)
    return invent(task, seeds=seeds, seed=seed)


def lexicon_hash(task: Task) -> str:
    """Return what of a task decides the words that this teacher writes: part of the keys of the task's requests."""
    if task.generator is not None:
        return f"{task.generator}/{GENERATOR_VERSION}"
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
        task's bounds: what this teacher adds beyond is style alone. In generated tasks fidelity decides whether the
        answer is right, or how many constraints are kept."""
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
            completion = self._written(task, request)
            yield Reply(
                key=request.key,
                completion=completion,
                finish_reason=None if completion is None else "stop",
                prompt_tokens=count_words(request.input),
                completion_tokens=None if completion is None else count_words(completion),
                started=started,
                seconds=time.time() - started,
                error=None if completion is not None else f"input: the rules of '{task.generator}' cannot read it",
            )

    def close(self) -> None:
        """Nothing is held."""

    def _written(self, task: Task, request: Request) -> str | None:
        """Return the completion; None where it is for a generator that does not know the input's language."""
        fidelity, words = float(request.sampling["fidelity"]), request.sampling["words"]
        rng, bounds = random.Random(request.seed), (task.min_words, task.max_words)
        if task.generator == "arithmetic":
            return arithmetic.write(request.input, fidelity=fidelity, words=words, rng=rng)
        if task.generator == "instructions":
            return instructions.write(request.input, fidelity=fidelity, words=words, bounds=bounds, rng=rng)
        if task.lexicon is None:
            raise TaskError(f"{task.path}: task '{task.name}' has no lexicon, which the built-in teacher writes from")
        foreign = self._foreign_passages(task)
        return write(
            request.input, task.lexicon, fidelity=fidelity, words=words, bounds=bounds, foreign=foreign, rng=rng
        )

    def _foreign_passages(self, task: Task) -> list[str]:
        if task.name not in self._foreign:
            self._foreign[task.name] = foreign_passages(seeds(task))
        return self._foreign[task.name]
