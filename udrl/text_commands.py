"""The plain-text rendering of commands: ordinary words of the tokenizer instead of control ids.

A prompt is then a text that any program can write::

    a red fox in the snow | text-to-image relevance=8 length=3 =>

A number is a bin, 0 to 9: a position rounded to the nearest whole one. An open attribute is left out. It is portable,
and open to injection: an input that contains such words is read as a command. That is why it is an option.

Every piece begins with a space, so that byte-level tokenizers encode the text as a whole to the ids of its pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Texts to ids, with a space put before each: `udrl.tokenizer.encode` of one tokenizer."""

END = "=>"


@dataclass(frozen=True)
class TextCommands:
    """The ids of every piece that a command can be put together from, so that no tokenizer is needed to render one.

    tasks: by task; levels: by attribute, one a bin; end: what closes a command.
    """

    tasks: Mapping[str, tuple[int, ...]]
    levels: Mapping[str, tuple[tuple[int, ...], ...]]
    end: tuple[int, ...]

    @staticmethod
    def make(encode: Encode, *, tasks: Sequence[str], attributes: Sequence[str], bins: int) -> TextCommands:
        """Encode the pieces for these tasks and attributes."""

        def ids(texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
            return tuple(map(tuple, encode(texts)))

        return TextCommands(
            dict(zip(tasks, ids([_task(task) for task in tasks]), strict=True)),
            {name: ids([_level(name, k) for k in range(bins)]) for name in attributes},
            ids([END])[0],
        )

    @property
    def longest(self) -> int:
        """Number of ids of the longest command."""
        of_levels = sum(max(map(len, pieces)) for pieces in self.levels.values())
        return max(map(len, self.tasks.values())) + of_levels + len(self.end)

    def render(self, task: str, positions: Mapping[str, float | None]) -> list[int]:
        """Return the ids of a command; attributes that are missing or None are left out."""
        ids = list(self.tasks[task])
        for name, level in self._levels(positions):
            ids += self.levels[name][level]
        return [*ids, *self.end]

    def task_of(self, ids: Sequence[int]) -> str:
        """Return the task of a command that `render` rendered; one task's ids may begin those of another."""
        beginning = [task for task, rendered in self.tasks.items() if tuple(ids[: len(rendered)]) == rendered]
        return max(beginning, key=lambda task: len(self.tasks[task]))

    def text(self, task: str, positions: Mapping[str, float | None]) -> str:
        """Return the command as a text, to be put after the input."""
        return " ".join(["", _task(task), *(_level(name, level) for name, level in self._levels(positions)), END])

    def _levels(self, positions: Mapping[str, float | None]) -> list[tuple[str, int]]:
        levels = []
        for name, pieces in self.levels.items():
            position = positions.get(name)
            if position is not None:
                levels.append((name, int(min(max(position, 0.0), len(pieces) - 1.0) + 0.5)))
        return levels

    def to_json(self) -> dict[str, Any]:
        """Return the pieces as plain JSON data."""
        return {
            "tasks": {task: list(ids) for task, ids in self.tasks.items()},
            "levels": {name: [list(ids) for ids in pieces] for name, pieces in self.levels.items()},
            "end": list(self.end),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TextCommands:
        """Read what `to_json` wrote."""
        return TextCommands(
            {task: tuple(ids) for task, ids in data["tasks"].items()},
            {name: tuple(map(tuple, pieces)) for name, pieces in data["levels"].items()},
            tuple(data["end"]),
        )


def _task(task: str) -> str:
    return f"| {task}"


def _level(name: str, level: int) -> str:
    return f"{name}={level}"
