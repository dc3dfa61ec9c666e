"""Sampling mixes: the different settings under which one teacher writes the samples of one input.

A student learns to obey a command only where returns vary *within* an input; a mix makes them vary on purpose, by
temperature, by length, and by what the teacher is told. A setting is one entry of a card's ``sampling`` list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from udrl import yamlfile
from udrl.data.hashing import hash_int
from udrl.data.inputs import input_id
from udrl.data.tasks import Task, check_template
from udrl.errors import TaskError

Length = Literal["any", "short", "long"]

LENGTHS: tuple[Length, ...] = ("any", "short", "long")

RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 5.0),
    "top_p": (0.0, 1.0),
    "top_k": (-1, 1_000_000),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 10.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
}
"""What an engine can be told, with the range of each: names are those of OpenAI's and vLLM's interfaces."""

INVENT: Mapping[str, float] = {"temperature": 1.0, "top_p": 0.95}
"""What engines are told for inventing inputs, where a card does not say: variety counts more than care."""

INSTRUCTION_VARIABLES = ("min_words", "max_words")

PRIME_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "qualities": ("description", "min_words", "max_words"),
    "reference": ("reference", "reference_input", "min_words", "max_words"),
    "command": ("length", "relevance", "min_words", "max_words"),
}
"""Ways of priming the teacher, each with the variables that its template in a card may use; the first is needed."""

RELEVANCE_LEVELS = ("low", "medium", "high")
"""What ``{relevance}`` stands for; the template says what they mean."""

_REQUEST_PARTS = ("instruction", "system", "priming", "min_words", "max_words")
_TOKENS_PER_WORD = 3
_SPARE_TOKENS = 32


@dataclass(frozen=True)
class Setting:
    """One way of asking. Produced by ``read_mix``, consumed by ``sampling`` and ``careful``.

    engine: some of RANGES. length: which third of the task's bounds is asked for (any: all of it).
    instruction: appended to the task's request. system: the text of a system message.
    prime: one of PRIME_VARIABLES, shown to the teacher after the request; priming: its template.
    """

    name: str
    engine: Mapping[str, float]
    length: Length = "any"
    instruction: str | None = None
    system: str | None = None
    prime: str | None = None
    priming: str | None = None


def read_priming(data: Mapping[str, Any], *, where: str) -> dict[str, str]:
    """Read the ``priming`` templates of a card; raises TaskError, naming file, key and variable."""
    where = f"{where}: priming"
    yamlfile.check_keys(data, where=where, optional=tuple(PRIME_VARIABLES))
    for kind in data:
        known = PRIME_VARIABLES[kind]
        check_template(yamlfile.text_at(data, kind, where=where), kind, known, needed=known[:1], where=where)
    return {kind: str(text) for kind, text in data.items()}


def read_mix(data: Any, *, where: str, priming: Mapping[str, str] | None = None) -> tuple[Setting, ...]:
    """Read the ``sampling`` list of a card; its first setting is the careful one. priming: see ``read_priming``.

    Raises TaskError, naming file, entry and key, for anything that is not as ``Setting`` says. The first entry may
    hold engine settings only: the benchmark's teacher row is asked exactly what the task says.
    """
    if not isinstance(data, list) or not data:
        raise TaskError(f"{where}: key 'sampling' must be a list of settings, the careful one first")
    mix = tuple(
        _setting(item, where=f"{where}: sampling, item {n}", priming=priming or {})
        for n, item in enumerate(data, start=1)
    )
    names = [setting.name for setting in mix]
    if len(set(names)) < len(names):
        raise TaskError(f"{where}: two settings of 'sampling' have the same name ({', '.join(names)})")
    first = mix[0]
    if first.instruction or first.system or first.prime or first.length != "any":
        raise TaskError(
            f"{where}: the first setting of 'sampling' ({first.name}) is the careful one, which asks what the task "
            "says: take 'length', 'instruction', 'system' and 'prime' out of it"
        )
    return mix


def read_engine(data: Mapping[str, Any], *, where: str) -> dict[str, float]:
    """Read engine settings, some of RANGES; raises TaskError, naming place and key."""
    yamlfile.check_keys(data, where=where, optional=tuple(RANGES))
    return {name: _number(data[name], name, where=where) for name in RANGES if name in data}


def sampling(mix: Sequence[Setting], index: int, min_words: int, max_words: int) -> dict[str, Any]:
    """Return the settings of sample ``index``: the entries of ``mix`` in turn.

    Beside what the engine is told there is ``style`` (the entry's name) and, where the entry has them, the parts of
    the request that ``messages_for`` uses: instruction, system, priming, min_words, max_words.
    """
    setting = mix[index % len(mix)]
    low, high = _bounds(setting.length, min_words, max_words)
    parts: dict[str, Any] = {
        "instruction": setting.instruction,
        "system": setting.system,
        "prime": setting.prime,
        "priming": setting.priming,
    }
    if setting.length != "any":
        parts |= {"min_words": low, "max_words": high}
    return _engine(setting, max_words) | {name: part for name, part in parts.items() if part is not None}


def careful(mix: Sequence[Setting], max_words: int) -> dict[str, Any]:
    """Return the settings under which the teacher does its best: the first entry."""
    return _engine(mix[0], max_words)


def messages_for(
    task: Task, text: str, settings: Mapping[str, Any], *, reference: str | None = None
) -> tuple[tuple[dict[str, str], ...], dict[str, Any]]:
    """Return what the teacher is asked for the input ``text``, and ``settings`` without the parts that this used.

    The request comes first, then what primes the teacher, then the setting's own instruction. What was asked then
    stands in the messages, and only there. reference: a completion of this very input to show, where there is one.
    Raises TaskError where a reference is to be shown and the task has no example of another input either.
    """
    if settings.get("max_words") is not None and settings.get("min_words") is not None:
        task = replace(task, min_words=settings["min_words"], max_words=settings["max_words"])
    parts = [task.request(text)]
    if settings.get("priming"):
        parts.append(_primed(task, text, settings, reference))
    if settings.get("instruction"):
        parts.append(settings["instruction"].format(min_words=task.min_words, max_words=task.max_words))
    messages = [{"role": "user", "content": "\n\n".join(part.strip() for part in parts)}]
    if settings.get("system"):
        messages.insert(0, {"role": "system", "content": settings["system"].strip()})
    return tuple(messages), {name: value for name, value in settings.items() if name not in _REQUEST_PARTS}


def check_references(mix: Sequence[Setting], tasks: Sequence[Task], *, where: str) -> None:
    """Raise TaskError where ``mix`` shows references and one of ``tasks`` has no examples to take them from."""
    for setting in mix:
        for task in tasks:
            if setting.prime == "reference" and not task.examples:
                raise _no_reference(task, f"{where}: the setting '{setting.name}'")


def _primed(task: Task, text: str, settings: Mapping[str, Any], reference: str | None) -> str:
    values: dict[str, Any] = {"min_words": task.min_words, "max_words": task.max_words}
    kind = settings["prime"]
    draw = hash_int("prime", task.name, input_id(text), settings.get("style"))
    if kind == "qualities":
        values["description"] = task.description
    elif kind == "reference":
        shown = text
        if reference is None:
            others = [example for example in task.examples if input_id(example.input) != input_id(text)]
            if not others:
                raise _no_reference(task, f"the setting '{settings.get('style')}'")
            example = others[draw % len(others)]
            shown, reference = example.input, example.completion
        values |= {"reference_input": shown, "reference": reference}
    else:
        span = task.max_words - task.min_words + 1
        values |= {
            "relevance": RELEVANCE_LEVELS[draw % len(RELEVANCE_LEVELS)],
            "length": task.min_words + draw // len(RELEVANCE_LEVELS) % span,
        }
    return str(settings["priming"]).format(**values)


def _no_reference(task: Task, what: str) -> TaskError:
    return TaskError(
        f"{what} shows a reference answer, and {task.path} has no example of another input: give the task 'examples', "
        "or the inputs a column 'reference'"
    )


def merged_system(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return ``messages`` with system messages put in front of the next user turn, for templates without that role."""
    merged: list[dict[str, str]] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            merged.append({"role": "user", "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            merged.append(dict(message))
    if waiting:
        merged.append({"role": "user", "content": "\n\n".join(waiting)})
    return merged


def _engine(setting: Setting, max_words: int) -> dict[str, Any]:
    # Room for every completion that episode building accepts (1.5 times the bound, at about two tokens a word).
    limit = _TOKENS_PER_WORD * max_words + _SPARE_TOKENS
    return {"style": setting.name, **setting.engine, "max_tokens": limit}


def _bounds(length: Length, low: int, high: int) -> tuple[int, int]:
    third = (high - low) // 3
    if length == "short":
        return low, low + third
    return (high - third, high) if length == "long" else (low, high)


def _setting(data: Any, *, where: str, priming: Mapping[str, str]) -> Setting:
    if not isinstance(data, dict):
        raise TaskError(f"{where}: must hold 'key: value' lines")
    yamlfile.check_keys(
        data, where=where, required=("name",), optional=(*RANGES, "length", "instruction", "system", "prime")
    )
    engine = {name: _number(data[name], name, where=where) for name in RANGES if name in data}
    length = data.get("length", "any")
    if length not in LENGTHS:
        raise TaskError(f"{where}: key 'length' must be one of {', '.join(LENGTHS)}, found {length!r}")
    texts = {key: yamlfile.text_at(data, key, where=where) for key in ("instruction", "system") if key in data}
    if "instruction" in texts:
        check_template(texts["instruction"], "instruction", INSTRUCTION_VARIABLES, needed=(), where=where)
    prime = data.get("prime")
    if prime is not None and prime not in PRIME_VARIABLES:
        raise TaskError(f"{where}: key 'prime' must be one of {', '.join(PRIME_VARIABLES)}, found {prime!r}")
    if prime is not None and prime not in priming:
        raise TaskError(f"{where}: key 'prime': the card has no template '{prime}' under 'priming'")
    name = yamlfile.text_at(data, "name", where=where)
    return Setting(name, engine, length, **texts, prime=prime, priming=priming.get(prime) if prime else None)


def _number(value: Any, name: str, *, where: str) -> float:
    low, high = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TaskError(f"{where}: key '{name}' must be a number, found {value!r}")
    if not low <= value <= high:
        raise TaskError(f"{where}: key '{name}' must be within [{low:g}, {high:g}], found {value:g}")
    return value
