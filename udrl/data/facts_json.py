"""How the records of `udrl.data.facts` stand in run.json: one reader and one writer for all of them.

A key that an older version did not write has the default of its field; a key that this version does not know is left
out in reading, and stays where one run's stages are copied into another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from udrl.data.facts import BenchFacts, RunFacts, StageFacts
from udrl.errors import RunError


def read_facts(data: Mapping[str, Any], file: Path) -> RunFacts:
    """Return what the contents of run.json say; ``file`` is named in messages.

    Raises RunError for a value of a wrong type, with its stage and key, what it is and what it must be.
    """
    stages: Mapping[str, Any] = data["stages"]
    hints = _hints(RunFacts)
    values: dict[str, Any] = {"stages": tuple(stages)}
    for name in ("schema", "udrl", "created"):
        if name in data:
            values[name] = typed(hints[name], data[name], f"{file}: {name}")
    benches = {}
    for name, stage in stages.items():
        kind = hints.get(name)
        if isinstance(kind, type) and issubclass(kind, StageFacts):
            values[name] = typed(kind, stage, f"{file}: stages.{name}")
        elif name.startswith(f"{BenchFacts.KEY} "):
            bench = name.removeprefix(f"{BenchFacts.KEY} ")
            benches[bench] = replace(typed(BenchFacts, stage, f"{file}: stages.{name}"), name=bench)
    return RunFacts(**values, bench=benches)


def written(value: Any) -> Any:
    """Return a record as JSON has it."""
    if is_dataclass(value):
        pairs = [(one, getattr(value, one.name)) for one in fields(value) if not one.metadata.get("in_key")]
        return {
            one.name: written(part) for one, part in pairs if not one.metadata.get("where_given") or part != one.default
        }
    if isinstance(value, Mapping):
        return {key: written(part) for key, part in value.items()}
    return [written(part) for part in value] if isinstance(value, tuple | list) else value


_hints = cache(get_type_hints)


def typed(hint: Any, value: Any, where: str) -> Any:
    """Return ``value``, which JSON has at ``where`` (for messages), as the type ``hint`` has it.

    hint: a type of plain values, a dataclass of such, or tuples and mappings of them. Raises RunError for a value of
    another type, and for a record that lacks one which has no default.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        if value is None:
            return None
        return typed(next(one for one in arguments if one is not NoneType), value, where)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return _record(hint, value, where)
    if origin is Literal and value in arguments:
        return value
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {key: typed(arguments[1], part, f"{where}.{key}") for key, part in value.items()}
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            parts = enumerate(zip(kinds, value, strict=True))
            return tuple(typed(kind, part, f"{where}[{number}]") for number, (kind, part) in parts)
    if type(value) is hint or (hint is float and type(value) is int):
        return value
    shown = repr(value)
    raise RunError(
        f"{where} is {shown if len(shown) <= 60 else f'{shown[:57]}...'}, needed is {_needed(hint)}: correct it, or "
        "restore the file"
    )


def _record(kind: Any, data: Mapping[str, Any], where: str) -> Any:
    hints, values = _hints(kind), {}
    for one in fields(kind):
        if one.name in data:
            values[one.name] = typed(hints[one.name], data[one.name], f"{where}.{one.name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise RunError(
                f"{where} has no '{one.name}', needed is {_needed(hints[one.name])}: add it, or restore the file"
            )
    return kind(**values)


def _needed(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        return "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}"
    if hint in _NEEDED:
        return _NEEDED[hint]
    return "an object with a value for each name"


_NEEDED: Mapping[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
