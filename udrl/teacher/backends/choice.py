"""Which backend stands behind a teacher card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from udrl.data.tasks import Task, load_tasks
from udrl.teacher.backends.builtin import BuiltinTeacher
from udrl.teacher.backends.openai import OpenAITeacher
from udrl.teacher.backends.ray import RayTeacher
from udrl.teacher.backends.transformers import TransformersTeacher
from udrl.teacher.backends.vllm import VllmTeacher
from udrl.teacher.cards import Card, at_endpoint, load_card
from udrl.teacher.protocol import Teacher


def teacher(name_or_file: str | Path, *, tasks: Sequence[Task] | None = None, base_url: str | None = None) -> Teacher:
    """Start the teacher of a card. tasks: those that it will be asked for (None: all that ship).

    base_url: see ``at_endpoint``. The caller closes it. Raises as ``load_card``, ``at_endpoint`` and ``start`` do.
    """
    card = load_card(name_or_file)
    if base_url is not None:
        card = at_endpoint(card, base_url)
    return start(card, tasks=load_tasks() if tasks is None else tasks)


def start(card: Card, *, tasks: Sequence[Task]) -> Teacher:
    """Start the teacher of ``card`` for ``tasks``.

    Raises TaskError for settings that the backend does not have, UsageError for an address that is none,
    TeacherError where the backend cannot start.
    """
    if card.backend == "builtin":
        return BuiltinTeacher(tasks)
    if card.backend == "openai":
        return OpenAITeacher(card)
    if card.backend == "transformers":
        return TransformersTeacher(card)
    if card.backend == "ray":
        return RayTeacher(card)
    return VllmTeacher(card)
