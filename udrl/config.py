"""Configuration files: YAML whose values become the defaults of a command's options.

A file is either flat, for one command, or has one section a command, so that a whole experiment is one file;
``run`` and ``seed`` may stand beside the sections and hold for all of them::

    run: runs/captions
    seed: 7
    synth:
      task: [text-to-image, text-to-video]
      num-inputs: 5000
    train:
      student: gpt2-mini

What the command line says wins. A key that no option answers to is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from udrl.errors import TaskError, suggestion
from udrl.yamlfile import Plain, Switch, read_mapping, resolved

COMMON = ("run", "seed")
"""Keys that may stand beside the sections of a file: they mean the same for every command."""


@dataclass(frozen=True)
class Key:
    """One option as a configuration key: its name for the command line's parser, and how values may look.

    several: the option may be repeated: the file may give a list (or, for NAME=VALUE options, a mapping).
    text: the value is a text, as it is spelled: ``007``, ``off`` and ``2024-05-01`` need no quotation marks.
    whole: it is a whole number, which may be spelled ``1e3``. choices: the texts that it may be, where these are known.
    """

    parameter: str
    several: bool = False
    text: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()


def load_config(path: Path, *, command: str, keys: Mapping[str, Key], commands: Collection[str]) -> dict[str, object]:
    """Read the defaults that the file at ``path`` gives to ``command``.

    command: its name, for sections and messages; ``commands`` are all the names that a section can have.
    keys: the command's options by the name that a file uses (``num-inputs``; underscores are accepted).

    Returns values by parameter name. Raises TaskError naming file and key for a file that is missing or no
    YAML mapping, and for unknown keys or values that no option can take.
    """
    data = read_mapping(path, kind="configuration", versioned=False, spelled=True)
    sections = {
        name: value or {}
        for name, value in data.items()
        if name in commands and (value is None or isinstance(value, dict))
    }
    if not sections:
        return _options(data, where=str(path), command=command, keys=keys)
    common = {name: value for name, value in data.items() if name not in sections}
    for name in common:
        if name not in COMMON:
            hint = suggestion(name, [*COMMON, *commands])
            raise TaskError(
                f"{path}: '{name}' stands beside the sections of commands and is neither run, seed nor a command{hint}"
            )
    for_command = _options(sections.get(command, {}), where=f"{path}, section {command}", command=command, keys=keys)
    shared = {name: value for name, value in common.items() if name in keys}
    return {**_options(shared, where=str(path), command=command, keys=keys), **for_command}


def _options(data: Mapping[str, Any], *, where: str, command: str, keys: Mapping[str, Key]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in data.items():
        spelled = str(name).replace("_", "-")
        if spelled not in keys:
            known = sorted(keys)
            raise TaskError(
                f"{where}: udrl {command} has no option '{name}'{suggestion(spelled, known)}; known: {', '.join(known)}"
            )
        if value is not None:
            key = keys[spelled]
            read = _several if key.several else _single
            result[key.parameter] = read(value, key, where, str(name))
    return result


def _single(value: object, key: Key, where: str, name: str) -> object:
    """Return what the option is given: for a text as it is spelled, else the number, true or false that it means."""
    if isinstance(value, (list, dict)):
        raise TaskError(f"{where}: '{name}' takes one value, not a {'list' if isinstance(value, list) else 'mapping'}")
    if value is None:
        raise TaskError(f"{where}: '{name}' holds nothing: write a value, or take it out")
    spelled = str(value)
    if not isinstance(value, Plain):  # it stands in quotation marks
        return spelled
    meant = resolved(spelled)
    if key.text:
        if spelled not in key.choices and isinstance(truth := getattr(meant, "value", meant), bool):
            words = ("on", "yes", "true") if truth else ("off", "no", "false")
            return next((choice for choice in key.choices if choice in words), spelled)
        return spelled
    if isinstance(meant, Switch):
        return meant.value
    if key.whole and isinstance(meant, float):
        return int(meant) if meant.is_integer() else spelled
    return meant


def _several(value: object, key: Key, where: str, name: str) -> list[object]:
    if isinstance(value, dict):
        return [
            f"{item}={_single(inner, replace(key, text=True), where, f'{name}.{item}')}"
            for item, inner in value.items()
        ]
    return [_single(item, key, where, name) for item in (value if isinstance(value, list) else [value])]
