"""Strict reading of the YAML files that a user edits: every problem is an error that names file and key.

Scalars are those of YAML 1.2's core schema: ``no``, ``off``, ``2024-05-01`` and ``12:30`` are texts, ``1e3`` and ``08``
are numbers. (YAML 1.1, which PyYAML reads, makes False of the first two and of Norway's code.) ``yes``, ``no``, ``on``
and ``off`` without quotation marks remember that they may be meant as true or false: see ``Switch``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from udrl.arguments import LARGEST
from udrl.errors import TaskError, suggestion

SCHEMA = 1
"""The newest schema of tasks, cards and suites that this version reads."""

MAX_VALUES = 100_000
"""How many values a file may hold."""

MAX_BYTES = 1 << 20
"""How long a file may be: PyYAML takes 10 seconds for so much, and a device such as /dev/zero never ends."""


MAX_DIGITS = 1000
"""A longer number is a text: Python neither reads nor writes one of over 4,300 digits."""


class Plain(str):
    """A scalar as it is spelled in the file, without quotation marks; ``resolved`` says what it means."""


class Switch(str):
    """One of the words yes, no, on and off without quotation marks: a text, unless true or false is wanted."""

    @property
    def value(self) -> bool:
        """What it means where true or false is wanted."""
        return self.lower() in ("yes", "on")


def switched(value: Any) -> Any:
    """Return ``value`` with true and false for every ``Switch`` in it."""
    if isinstance(value, Switch):
        return value.value
    if isinstance(value, dict):
        return {key: switched(item) for key, item in value.items()}
    return [switched(item) for item in value] if isinstance(value, list) else value


def resolved(text: str) -> Any:
    """Return what a scalar without quotation marks means: true, false, a number, a ``Switch`` or a text."""
    if text in _TRUTHS:
        return _TRUTHS[text]
    if text.lower() in _SWITCHES:
        return Switch(text)
    if len(text) > MAX_DIGITS:
        return text
    with suppress(ValueError):
        if _WHOLE.fullmatch(text):
            return int(text, {"x": 16, "o": 8}.get(text[1:2], 10))
        if _REAL.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def read_value(text: str) -> Any:
    """Return the value that is written in ``text``, as YAML; raises ValueError where it is none."""
    try:
        return switched(_load(text))
    except (yaml.YAMLError, *_BROKEN, RecursionError) as error:
        raise ValueError(f"not valid YAML ({_problem(error)})") from error


def read_mapping(path: Path, *, kind: str, versioned: bool = True, spelled: bool = False) -> dict[str, Any]:
    """Return the mapping in the YAML file ``path``, with its ``schema`` checked and taken out.

    kind: what the file is, for messages ("task", "teacher card").
    versioned: whether the file must say which schema it has. spelled: leave scalars as ``Plain``.
    Raises TaskError where the file is missing, is a folder or a pipe, is longer than MAX_BYTES, is not UTF-8, is not
    YAML, holds a key twice, is no mapping, or has no schema or a newer one.
    """
    try:
        if path.is_fifo() and not str(path).startswith("/dev/"):  # what a shell's <(...) gives has a writer
            raise TaskError(f"{path}: is a pipe, which may never end: write the {kind} into a file first")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise TaskError(f"{path}: is longer than {MAX_BYTES:,} bytes, which no {kind} file is: check the path")
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise TaskError(f"there is no {kind} file {path}: check the path") from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text (byte {error.start}): save the {kind} file as UTF-8") from error
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except ValueError as error:  # a NUL in the path
        raise TaskError(f"{str(path)!r}: is no path ({error}): check it") from None
    try:
        data = _load(text, spelled=spelled)
    except yaml.YAMLError as error:
        raise TaskError(f"{path}{_line(error)}: not valid YAML ({_problem(error)}): correct the {kind} file") from error
    except _BROKEN as error:
        raise TaskError(f"{path}: holds a value that YAML cannot read ({error}): correct the {kind} file") from error
    except RecursionError:
        raise TaskError(f"{path}: is nested too deeply: correct the {kind} file") from None
    if not isinstance(data, dict):
        raise TaskError(f"{path}: a {kind} file must hold 'key: value' lines, found {_kind_of(data)}")
    schema = data.pop("schema", None if versioned else SCHEMA)
    schema = resolved(schema) if isinstance(schema, Plain) else schema
    if type(schema) is not int:
        raise TaskError(f"{path}: key 'schema' must be the integer {SCHEMA}, found {schema!r}")
    if schema > SCHEMA:
        raise TaskError(f"{path}: has schema {schema}, this udrl reads up to {SCHEMA}: install a newer udrl")
    return data


def written(data: Mapping[str, Any]) -> bytes:
    """Return the contents of a file that ``read_mapping`` reads as ``data``."""
    text: str = yaml.dump({"schema": SCHEMA, **data}, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
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
        raise TaskError(f"{where}: key '{key}' must be text, found {_kind_of(value)}{_quoted(value)}")
    return str(value)


def whole_at(data: Mapping[str, Any], key: str, *, where: str, low: int = 1, high: int | None = LARGEST) -> int:
    """Return the integer at ``key``, from ``low`` to ``high`` (None: however large); raises TaskError for others."""
    value = data[key]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e3
    if type(value) is not int or value < low:
        raise TaskError(f"{where}: key '{key}' must be an integer of at least {low}, found {value!r}")
    if high is not None and value > high:
        raise TaskError(f"{where}: key '{key}' must be at most {high}, found {str(value)[:20]}")
    return value


def mapping_at(data: Mapping[str, Any], key: str, *, where: str) -> dict[str, Any]:
    """Return the mapping at ``key``; raises TaskError for anything else."""
    if key not in data:
        raise TaskError(f"{where}: key '{key}' is missing")
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
    return tuple(map(str, value))


def _quoted(value: object) -> str:
    return "" if value is None or isinstance(value, str | list | dict) else ": put quotation marks around it"


def _kind_of(value: object) -> str:
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return "nothing"
    names = {str: "text", list: "a list", dict: "'key: value' lines", bool: "true or false"}
    return names.get(type(value), repr(value))


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


_BROKEN = (ValueError, TypeError, AttributeError, ArithmeticError, LookupError)
"""What PyYAML raises beside its own errors, for values that do not fit their tags."""

_TRUTHS = {
    spelled: value
    for word, value in (("true", True), ("false", False))
    for spelled in (word, word.title(), word.upper())
}
_SWITCHES = ("yes", "no", "on", "off")
_WHOLE = re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Spelled(yaml.SafeLoader):
    """Leaves scalars as they are spelled; null apart."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own, an attribute of the class


class _Core(_Spelled):
    """Scalars mean what YAML 1.2's core schema says."""


def _construct(loader: _Spelled, node: yaml.ScalarNode) -> Any:
    text = str(loader.construct_scalar(node))
    if node.style is not None:  # it stands in quotation marks, or is a block
        return text
    return resolved(text) if isinstance(loader, _Core) else Plain(text)


_Spelled.add_constructor("tag:yaml.org,2002:str", _construct)
_Spelled.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Spelled.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])


class _Dumper(yaml.SafeDumper):
    """Puts quotation marks around what YAML 1.1 or 1.2 would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_REAL.pattern})$"), list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"(?:{_WHOLE.pattern})$"), list("-+0123456789"))
_Dumper.add_representer(Switch, lambda dumper, value: dumper.represent_str(str(value)))


def _load(text: str, *, spelled: bool = False) -> Any:
    """Parse ``text``, but refuse a key that stands twice (PyYAML silently keeps the last), and aliases that explode."""
    loader = (_Spelled if spelled else _Core)(text)
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
