"""A request's JSON, read field by field: what is taken, what is refused, and why.

A field that would change the answer is honoured or refused; one that would not is taken and left alone; one that nobody
knows is an error that names it. What is taken and yet not read (system messages, earlier turns) the answer tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from udrl.commands import LENGTH, Target
from udrl.decoding.wording import Wording
from udrl.errors import suggestion
from udrl.serve import values
from udrl.serve.inputs import last_user_message, read_prompts
from udrl.serve.refusal import Refusal
from udrl.serve.values import TYPE

Endpoint = Literal["chat", "completions"]

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "no_repeat", "guidance")
"""Fields that say how completions are drawn, by the names of `udrl.decoding.sampling.Sampling`."""
MOST_STOPS, MOST_WORDS, MOST_LIKELIEST = 16, 64, 20

WITHOUT_EFFECT = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prediction", "parallel_tool_calls",
)  # fmt: skip
"""Fields that change no answer of a student."""

HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},),
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "echo": (False,), "suffix": ("",),
    "reasoning_effort": ("none", "minimal"), "verbosity": ("medium",), "web_search_options": (),
}  # fmt: skip
"""Standard fields that a student cannot honour, and the values at which they change nothing."""

INSTEAD = {
    "presence_penalty": "no_repeat", "frequency_penalty": "no_repeat", "repetition_penalty": "no_repeat",
    "logit_bias": "ban and require", "verbosity": "length",
}  # fmt: skip

COMMANDS = (
    "task", "relevance", "length", "target", "ban", "require", "max_words", "best_of", "closest_of", "score", "ladder",
)  # fmt: skip
"""What a student can be told beyond OpenAI's fields."""

KNOWN = {
    *COMMANDS, *SAMPLING, *WITHOUT_EFFECT, *HARMLESS, "model", "n", "seed", "stop", "max_tokens",
    "max_completion_tokens", "stream", "stream_options", "logprobs",
}  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """What one request asks for, as it was understood. None, or nothing in it: not said.

    student: its name; model: as it was written, with a suffix; sampling: fields of `Sampling`; ladder: values by
    attribute; likeliest: of how many ids the chances are told, beside those that are written; ignored: what was taken
    and is not read.
    """

    endpoint: Endpoint
    student: str
    model: str
    inputs: tuple[str, ...]
    task: str | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    wording: Wording = field(default_factory=Wording)
    n: int = 1
    best_of: int = 1
    closest_of: int = 1
    score: bool = False
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    ladder: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    likeliest: int | None = None
    ignored: tuple[str, ...] = ()

    @property
    def drawn(self) -> int:
        """Candidates of each choice."""
        return max(self.best_of, self.closest_of)


def read_json(body: bytes) -> dict[str, Any]:
    """Return the object that ``body`` is; raises Refusal that says where it is none."""
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise Refusal(f"the body is not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise Refusal(f"the body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Refusal("the body is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise Refusal(f"the body is no JSON that can be read: {error}") from None
    if not isinstance(data, dict):
        raise Refusal(f"the body must be a JSON object, got {values.kind(data)}")
    return data


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name in made if sum(other == name for other, _ in pairs) > 1)
        raise ValueError(f"'{twice[:60]}' is given twice in one object")
    return made


def read_ask(data: Mapping[str, Any], endpoint: Endpoint, students: Sequence[str]) -> Ask:
    """Return what ``data`` asks of one of ``students``; raises Refusal for the first field that is wrong."""
    given = {name: value for name, value in data.items() if value is not None}
    _check_names(given, endpoint)
    student, suffix = _model(given.get("model"), students)
    _merge(given, suffix)
    for name, harmless in HARMLESS.items():
        if name in given and not any(_same(given[name], value) for value in harmless):
            raise _unsupported(name)
    inputs, ignored = read_prompts(given) if endpoint == "completions" else last_user_message(given)
    return Ask(
        endpoint=endpoint,
        student=student,
        model=str(given.get("model", student)),
        inputs=inputs,
        task=values.text(given, "task"),
        targets=_targets(given),
        sampling=_sampling(given),
        wording=_wording(given),
        n=values.count(given, "n"),
        best_of=values.count(given, "best_of"),
        closest_of=values.count(given, "closest_of"),
        score=values.flag(given, "score"),
        seed=_seed(given),
        stop=values.texts(given, "stop", most=MOST_STOPS, blank=True),
        stream=values.flag(given, "stream"),
        include_usage=_stream_options(given),
        ladder=_ladder(given),
        likeliest=_likeliest(given, endpoint),
        ignored=tuple(ignored),
    )


def _check_names(given: Mapping[str, Any], endpoint: Endpoint) -> None:
    known = KNOWN | ({"messages", "top_logprobs"} if endpoint == "chat" else {"prompt"})
    for name in given:
        if name not in known:
            short = name[:60].encode("utf-8", "backslashreplace").decode()
            raise Refusal(f"unknown field '{short}'{suggestion(short, known)}", param=short, code="unknown_parameter")


def _unsupported(name: str) -> Refusal:
    instead = f"; use {INSTEAD[name]}" if name in INSTEAD else ": leave it out"
    return Refusal(f"a student cannot honour '{name}'{instead}", param=name, code="unsupported_parameter")


def _same(value: Any, other: Any) -> bool:
    """Tell whether two values of JSON are equal, true and 1 not being so."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


# -- model ---------------------------------------------------------------------------------------------------------


def _model(model: Any, students: Sequence[str]) -> tuple[str, str]:
    """Return which student ``model`` names, and the suffix behind it, which is a command."""
    if model is None and len(students) == 1:
        return students[0], ""
    if model is None:
        listed = ", ".join(students)
        raise Refusal(f"'model' is missing: one of {listed}", param="model", code="missing_required_parameter")
    name, _, suffix = values.checked_text("model", model).partition(":")
    if name not in students:
        raise unknown_model(name, students)
    return name, suffix


def unknown_model(name: str, students: Sequence[str]) -> Refusal:
    """Return what is told to whoever asks for a student that is not served."""
    told = f"there is no model '{name[:60]}'{suggestion(name[:60], students)}; served: {', '.join(students)}"
    return Refusal(told, 404, param="model", code="model_not_found")


def _merge(given: dict[str, Any], suffix: str) -> None:
    """Add the command of a model's ``suffix`` (``relevance=0.6,length=20``) to the fields."""
    seen: set[str] = set()
    for part in suffix.split(",") if suffix else ():
        name, sign, written = part.partition("=")
        name, written = name.strip(), written.strip()
        if not sign or not name or not written:
            raise _in_model(f"'{part[:60]}' in the model's name is not NAME=VALUE, such as length=20")
        value = written if name == "task" else _value(written)
        if name in ("ban", "require"):
            given[name] = [*values.texts(given, name, most=MOST_WORDS), written]
            continue
        aimed = name not in KNOWN and isinstance(value, float | int | str) and not isinstance(value, bool)
        if name in seen or name in given or name in values.mapping(given, "target"):
            raise _in_model(f"'{name[:60]}' is given twice, in the model's name and beside it")
        seen.add(name)
        if aimed:
            given["target"] = {**values.mapping(given, "target"), name: value}
        elif name in {*COMMANDS, *SAMPLING, "n", "seed", "max_tokens"} - {"target", "ladder"}:
            given[name] = value
        else:
            raise _in_model(f"'{name[:60]}' cannot stand in a model's name")


def _in_model(message: str) -> Refusal:
    return Refusal(message, param="model", code="invalid_value")


def _value(written: str) -> Any:
    """Return a suffix's value as JSON would: numbers, true and false, else text."""
    try:
        value = json.loads(written, parse_constant=str)
    except ValueError:
        return written
    return value if isinstance(value, bool | int | float) else written


def _target(name: str, value: Any) -> Target:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal(f"'{name}' must be a number or \"auto\", got {values.kind(value)}", param=name, code=TYPE)
    return value


def _targets(given: Mapping[str, Any]) -> dict[str, Target]:
    """Return the targets by attribute, from ``target`` and the fields of its own that two attributes have."""
    targets = {name: _target(f"target.{name}", value) for name, value in values.mapping(given, "target").items()}
    for name in ("relevance", LENGTH):
        if name in given:
            if name in targets:
                raise Refusal(f"'{name}' is given twice, in target and beside it", param=name, code="invalid_value")
            targets[name] = _target(name, given[name])
    return targets


def _ladder(given: Mapping[str, Any]) -> dict[str, tuple[Target, ...]]:
    ladder = {}
    for name, rungs in values.mapping(given, "ladder").items():
        if not isinstance(rungs, list) or not rungs:
            raise Refusal(f"'ladder.{name}' must be a list of values", param=f"ladder.{name}", code=TYPE)
        if name in given or name in values.mapping(given, "target"):
            raise Refusal(f"'{name}' is given twice, in the ladder and beside it", param=f"ladder.{name}")
        ladder[name] = tuple(_target(f"ladder.{name}", value) for value in rungs)
    if ladder and values.count(given, "n") > 1:
        raise Refusal("a ladder has one choice a rung: leave n out", param="n", code="invalid_value")
    return ladder


def _seed(given: Mapping[str, Any]) -> int | None:
    return int(values.number(given, "seed", whole=True, as_="seeds")) if "seed" in given else None


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of `Sampling`."""
    said = {n: values.number(given, n, whole=n in ("top_k", "no_repeat")) for n in SAMPLING if n in given}
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise Refusal("'max_tokens' and 'max_completion_tokens' mean the same: give one", param="max_tokens")
    for name in ("max_tokens", "max_completion_tokens"):
        if name in given:
            said["max_tokens"] = values.number(given, name, whole=True, as_="max_tokens")
    return said


def _wording(given: Mapping[str, Any]) -> Wording:
    require, ban = (values.texts(given, name, most=MOST_WORDS) for name in ("require", "ban"))
    most = int(values.number(given, "max_words", whole=True)) if "max_words" in given else None
    wording: Wording = values.read("require" if require else "ban", lambda: Wording(require, ban, most))
    return wording


def _likeliest(given: Mapping[str, Any], endpoint: Endpoint) -> int | None:
    """Return of how many ids the chances are asked for; chats ask for them in two fields, completions in one."""
    if endpoint == "chat":
        asked, name = values.flag(given, "logprobs"), "top_logprobs"
        if name in given and not asked and given[name] != 0:
            raise Refusal(f"'{name}' needs logprobs: true", param=name, code="invalid_value")
    else:
        name = "logprobs"
        asked = name in given
    if not asked:
        return None
    if values.flag(given, "stream"):
        raise Refusal("'logprobs' come with a whole answer: leave stream out", param="logprobs", code="invalid_value")
    count = int(values.number(given, name, whole=True)) if name in given else 0
    if not 0 <= count <= MOST_LIKELIEST:
        raise Refusal(f"'{name}' must be 0 to {MOST_LIKELIEST}, got {count}", param=name, code="invalid_value")
    return count


def _stream_options(given: Mapping[str, Any]) -> bool:
    """Return whether a stream is to end with its usage."""
    options = values.mapping(given, "stream_options")
    if options and not values.flag(given, "stream"):
        raise Refusal("'stream_options' needs stream: true", param="stream_options", code="invalid_value")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            raise Refusal(
                f"unknown field 'stream_options.{name[:60]}'", param="stream_options", code="unknown_parameter"
            )
    return values.flag(options, "include_usage") if options.get("include_usage") is not None else False
