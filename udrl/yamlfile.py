"""Strict reading of the YAML files that a user edits: every problem is an error that names file and key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from udrl.errors import TaskError, suggestion

SCHEMA = 1
"""The newest schema of tasks, cards and suites that this version reads."""

MAX_VALUES = 100_000
"""How many values a file may hold."""


def read_mapping(path: Path, *, kind: str, versioned: bool = True) -> dict[str, Any]:
    """Return the mapping in the YAML file ``path``, with its ``schema`` checked and taken out.

    kind: what the file is, for messages ("task", "teacher card").
    versioned: whether the file must say which schema it has.
    Raises TaskError where the file is missing, is not UTF-8, is not YAML, holds a key twice, is no mapping,
    or has no schema or a newer one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TaskError(f"there is no {kind} file {path}: check the path") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text (byte {error.start}): save the {kind} file as UTF-8") from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    try:
        data = _load(text)
    except yaml.YAMLError as error:
        raise TaskError(f"{path}{_line(error)}: not valid YAML ({_problem(error)}): correct the {kind} file") from error
    except ValueError as error:  # a date of month 13, a number of 5,000 digits
        raise TaskError(f"{path}: holds a value that YAML cannot read ({error}): correct the {kind} file") from error
    except RecursionError:
        raise TaskError(f"{path}: is nested too deeply: correct the {kind} file") from None
    if not isinstance(data, dict):
        raise TaskError(f"{path}: a {kind} file must hold 'key: value' lines, found {_kind_of(data)}")
    schema = data.pop("schema", None if versioned else SCHEMA)
    if type(schema) is not int:
        raise TaskError(f"{path}: key 'schema' must be the integer {SCHEMA}, found {schema!r}")
    if schema > SCHEMA:
        raise TaskError(f"{path}: has schema {schema}, this udrl reads up to {SCHEMA}: install a newer udrl")
    return data


def written(data: Mapping[str, Any]) -> bytes:
    """Return the contents of a file that ``read_mapping`` reads as ``data``."""
    text: str = yaml.safe_dump({"schema": SCHEMA, **data}, sort_keys=False, allow_unicode=True)
    return text.encode("utf-8")


def check_keys(
    data: Mapping[str, Any], *, where: str, required: Collection[str] = (), optional: Collection[str] = ()
) -> None:
    """Raise TaskError where ``data`` lacks a required key or holds one that is neither required nor
    optional."""
    known = [*required, *optional]
    for key in data:
        if key not in known:
            listed = ", ".join(known)
            raise TaskError(f"{where}: unknown key '{key}'{suggestion(str(key), known)}; known: {listed}")
    for key in required:
        if key not in data:
            raise TaskError(f"{where}: key '{key}' is missing")


def text_at(data: Mapping[str, Any], key: str, *, where: str) -> str:
    """Return the non-blank text at ``key``; raises TaskError for anything else."""
    value = data[key]
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{where}: key '{key}' must be text, found {_kind_of(value)}")
    return value


def whole_at(data: Mapping[str, Any], key: str, *, where: str, low: int = 1) -> int:
    """Return the integer at ``key``, at least ``low``; raises TaskError for anything else."""
    value = data[key]
    if type(value) is not int or value < low:
        raise TaskError(f"{where}: key '{key}' must be an integer of at least {low}, found {value!r}")
    return value


def mapping_at(data: Mapping[str, Any], key: str, *, where: str) -> dict[str, Any]:
    """Return the mapping at ``key``; raises TaskError for anything else."""
    value = data[key]
    if not isinstance(value, dict):
        raise TaskError(f"{where}: key '{key}' must hold 'key: value' lines, found {_kind_of(value)}")
    return value


def texts_at(data: Mapping[str, Any], key: str, *, where: str) -> tuple[str, ...]:
    """Return the non-empty list of non-blank texts at ``key``; raises TaskError for anything else."""
    value = data[key]
    if not isinstance(value, list) or not value:
        raise TaskError(f"{where}: key '{key}' must be a list of texts, found {_kind_of(value)}")
    for number, item in enumerate(value, start=1):
        if not isinstance(item, str) or not item.strip():
            raise TaskError(
                f"{where}: item {number} of '{key}' must be text, found {_kind_of(item)}; put quotation marks around it"
            )
    return tuple(value)


def _kind_of(value: object) -> str:
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return "nothing"
    names = {str: "text", list: "a list", dict: "'key: value' lines", bool: "yes/no"}
    return names.get(type(value), repr(value))


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _load(text: str) -> Any:
    """Parse ``text`` as SafeLoader does, but refuse a key that stands twice (SafeLoader silently keeps the
    last)."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_nodes(root: yaml.Node) -> None:
    """Refuse keys that stand twice, and aliases that spell out to more values than a person writes, or without end."""
    stack, count = [root], 0
    while stack:
        node = stack.pop()
        count += 1
        if count > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_VALUES:,} values, with what its aliases stand for")
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise yaml.MarkedYAMLError(
                            problem=f"key '{key.value}' stands twice", problem_mark=key.start_mark
                        )
                    seen.add(key.value)
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
