"""Single values of a request's JSON, each checked for its kind; what is wrong is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from udrl.arguments import check_number, check_text
from udrl.errors import UsageError
from udrl.serve.refusal import Refusal

MISSING, TYPE = "missing_required_parameter", "invalid_type"


def kind(value: Any) -> str:
    """Return what a value of JSON is, for people."""
    names = {bool: "true or false", dict: "an object", list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), "a number")


def read(name: str, check: Callable[[], Any]) -> Any:
    """Return what ``check`` gives; a UsageError becomes a Refusal of the field ``name``."""
    try:
        return check()
    except UsageError as error:
        raise Refusal(str(error), param=name, code="invalid_value") from None


def checked_text(name: str, value: Any) -> str:
    """Return ``value``, which must be text of whole characters."""
    if not isinstance(value, str):
        raise Refusal(f"'{name}' must be text, got {kind(value)}", param=name, code=TYPE)
    read(name, lambda: check_text(name, value))
    return value


def text(given: Mapping[str, Any], name: str) -> str | None:
    """Return a field that is text, or None."""
    return checked_text(name, given[name]) if name in given else None


def flag(given: Mapping[str, Any], name: str) -> bool:
    """Return a field that is true or false; false where it is not given."""
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise Refusal(f"'{name}' must be true or false, got {kind(value)}", param=name, code=TYPE)
    return value


def number(given: Mapping[str, Any], name: str, *, whole: bool, as_: str | None = None) -> Any:
    """Return a field that is a number in the range that `udrl.arguments` has for its name, or for ``as_``."""
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(f"'{name}' must be a number, got {kind(value)}", param=name, code=TYPE)
    read(name, lambda: check_number(as_ or name, value, whole=whole))
    return value


def count(given: Mapping[str, Any], name: str) -> int:
    """Return a field that counts something; 1 where it is not given."""
    return int(number(given, name, whole=True, as_="num" if name == "n" else name)) if name in given else 1


def mapping(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a field that is an object; an empty one where it is not given."""
    value = given.get(name, {})
    if not isinstance(value, dict):
        raise Refusal(f"'{name}' must be an object by attribute, got {kind(value)}", param=name, code=TYPE)
    return value


def texts(given: Mapping[str, Any], name: str, *, most: int, blank: bool = False) -> tuple[str, ...]:
    """Return a field that is a text or at most ``most`` texts. blank: white space will do."""
    value = given.get(name, [])
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, list):
        raise Refusal(f"'{name}' must be text or a list of texts, got {kind(value)}", param=name, code=TYPE)
    if len(several) > most:
        raise Refusal(
            f"'{name}' holds {len(several)} texts, at most {most} are taken", param=name, code="invalid_value"
        )
    texts = tuple(checked_text(name, one) for one in several)
    if any(not (one if blank else one.strip()) for one in texts):
        raise Refusal(f"'{name}' holds an empty text", param=name, code="invalid_value")
    return texts
