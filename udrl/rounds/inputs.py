"""What rounds explore on: the run's own training inputs, or new ones that no teacher has to answer."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl.data import decontamination, pii
from udrl.data.episode import Episode
from udrl.data.facts import HygieneFacts
from udrl.data.inputs import input_id, read_inputs, split_of
from udrl.data.known_answers import answers_of_file
from udrl.encoder import Encoder
from udrl.errors import InputError, unknown
from udrl.progress import note

Inputs = Mapping[str, Sequence[tuple[str, str]]]
"""By task, pairs of id and text."""


@dataclass(frozen=True)
class Source:
    """Where inputs to explore on come from. inputs: a file (None: the run's training inputs), whose column is
    ``field``; tasks: which (none: all of the student's)."""

    inputs: Path | str | None = None
    field: str | None = None
    tasks: Sequence[str] = ()

    def answers(self) -> dict[str, str]:
        """Return the right answers that the file knows, by input id."""
        return {} if self.inputs is None else answers_of_file(self.inputs, field=self.field)

    def record(self) -> dict[str, Any]:
        """Return what tells this source from others: the file by its content."""
        content = None
        if self.inputs is not None:
            with Path(self.inputs).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return {"inputs": content, "input_field": self.field, "tasks": list(self.tasks)}


def own_inputs(originals: Iterable[Episode]) -> Inputs:
    """Return the different inputs of the run's training episodes."""
    by_task: dict[str, dict[str, str]] = defaultdict(dict)
    for episode in originals:
        by_task[episode.task].setdefault(episode.input_id, episode.input)
    return {task: list(texts.items()) for task, texts in by_task.items()}


def given_inputs(
    path: Path | str, tasks: Sequence[str], *, field: str | None, hygiene: HygieneFacts, encoder: Encoder | None
) -> Inputs:
    """Return the inputs of a file for each of ``tasks``, without those that must not be trained on.

    Left out, counted and told: repeated ones, those whose hash puts them into validation or test (`split_of`), those
    of benchmark suites that the run keeps out (see `udrl.data.decontamination`), and what its rule on personal data
    rejects; where it masks, they are masked. hygiene: what run.json says of both.

    Raises InputError for a line that cannot be read, and where nothing is left.
    """
    left_out: Counter[str] = Counter()
    texts: dict[str, str] = {}
    for text in read_inputs(path, field=field):
        identity = input_id(text)
        if identity in texts:
            left_out["repeated"] += 1
        elif split_of(identity) != "train":
            left_out["held out for validation and test"] += 1
        else:
            texts[identity] = text
    if hygiene.pii == "reject":
        private = [identity for identity, text in texts.items() if pii.has_pii(text)]
        left_out["with personal data"] = len(private)
        texts = {identity: text for identity, text in texts.items() if identity not in set(private)}
    suites = decontamination.suite_inputs(hygiene.decontamination.asked)
    if suites:
        asked = decontamination.find_contaminated(texts.items(), suites, encoder=encoder).input_ids
        left_out["of benchmark suites"] = len(asked)
        texts = {identity: text for identity, text in texts.items() if identity not in asked}
    if hygiene.pii == "mask":
        texts = {identity: pii.mask(text)[0] for identity, text in texts.items()}
    told = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
    if not texts:
        raise InputError(f"{path}: no input is left to explore on ({told}): give more")
    if told:
        note(f"{path}: {len(texts):,} inputs are explored on; left out: {told}")
    return {task: list(texts.items()) for task in tasks}


def chosen_tasks(known: Iterable[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return ``wanted`` (none: all that are known); raises UsageError for a task that is not known."""
    tasks = tuple(sorted(known))
    for name in wanted:
        if name not in tasks:
            raise unknown("task", name, tasks)
    return tuple(wanted) or tasks
