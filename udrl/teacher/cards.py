"""Teacher cards: which model writes, through which backend, under which licence. One strict YAML file
each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from udrl import yamlfile
from udrl.data.tasks import Task, load_tasks
from udrl.errors import TaskError, suggestion, unknown
from udrl.resources import folder
from udrl.teacher.base import Teacher

BACKENDS = ("builtin",)
"""What can stand behind a card; each is the module of ``udrl.teacher`` with that name."""


@dataclass(frozen=True)
class Licence:
    """name: an identifier such as apache-2.0; outputs: what it says about training on the model's outputs."""

    name: str
    outputs: str


@dataclass(frozen=True)
class Card:
    """The contents of one card.

    backend: one of BACKENDS. model, revision: what the backend loads or asks for.
    settings: the backend's own, checked by it. path: the file that the card was read from.
    """

    name: str
    title: str
    description: str
    backend: str
    model: str
    revision: str | None
    licence: Licence
    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)


def load_card(name_or_file: str | Path) -> Card:
    """Return the card that ships under a name, or the one in a file of the user's (.yaml, .yml or with a
    separator).

    Raises UsageError for an unknown name, TaskError, naming file and key, for a file that is not valid.
    """
    text = str(name_or_file)
    if text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        return _read(Path(name_or_file))
    shipped = shipped_cards()
    if text not in shipped:
        raise unknown("teacher", text, shipped)
    return _read(shipped[text])


def shipped_cards() -> dict[str, Path]:
    """Return the files of the cards that ship with udrl, by teacher name, in name order."""
    return {path.stem: path for path in sorted(folder("teacher").glob("*.yaml"))}


def teacher(name_or_file: str | Path, *, tasks: Sequence[Task] | None = None) -> Teacher:
    """Start the teacher of a card. tasks: those that it will be asked for (None: all that ship).

    The caller closes it. Raises as ``load_card`` does, and TeacherError where the backend cannot start.
    """
    return start(load_card(name_or_file), tasks=load_tasks() if tasks is None else tasks)


def start(card: Card, *, tasks: Sequence[Task]) -> Teacher:
    """Start the teacher of ``card`` for ``tasks``; raises TeacherError where its backend cannot start."""
    if card.settings:
        raise TaskError(
            f"{card.path}: key 'settings': the backend '{card.backend}' has none, take the key out"
        )
    from udrl.teacher.builtin import BuiltinTeacher

    return BuiltinTeacher(tasks)


def _read(path: Path) -> Card:
    where = str(path)
    data = yamlfile.read_mapping(path, kind="teacher card")
    yamlfile.check_keys(
        data,
        where=where,
        required=("name", "title", "description", "backend", "model", "licence"),
        optional=("revision", "settings"),
    )
    backend = yamlfile.text_at(data, "backend", where=where)
    if backend not in BACKENDS:
        raise TaskError(
            f"{where}: key 'backend': unknown backend '{backend}'{suggestion(backend, BACKENDS)}; "
            f"known: {', '.join(BACKENDS)}"
        )
    licence = yamlfile.mapping_at(data, "licence", where=where)
    yamlfile.check_keys(licence, where=f"{where}: licence", required=("name", "outputs"))
    return Card(
        name=yamlfile.text_at(data, "name", where=where),
        title=yamlfile.text_at(data, "title", where=where),
        description=yamlfile.text_at(data, "description", where=where).strip(),
        backend=backend,
        model=yamlfile.text_at(data, "model", where=where),
        revision=yamlfile.text_at(data, "revision", where=where) if "revision" in data else None,
        licence=Licence(
            *(yamlfile.text_at(licence, key, where=f"{where}: licence") for key in ("name", "outputs"))
        ),
        path=path,
        settings=yamlfile.mapping_at(data, "settings", where=where) if "settings" in data else {},
    )
