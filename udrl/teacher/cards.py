"""Teacher cards: which model writes, through which backend, under which licence. One strict YAML file
each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from udrl import yamlfile
from udrl.errors import TaskError, UsageError, suggestion, unknown
from udrl.resources import folder
from udrl.teacher.mixes import INVENT, Setting, read_engine, read_mix, read_priming

BACKENDS = ("builtin", "openai", "transformers", "vllm", "ray")
"""What can stand behind a card; each is the module of ``udrl.teacher.backends`` with that name."""


@dataclass(frozen=True)
class Licence:
    """name: an identifier such as apache-2.0; outputs: what it says about training on the model's outputs."""

    name: str
    outputs: str


@dataclass(frozen=True)
class Chat:
    """How a conversation is put to the model.

    merge_system: its template has no system role, so a system message goes in front of the user turn.
    template_arguments: further arguments of the chat template, such as ``enable_thinking: false``.
    stop: texts that end a completion, beside the model's own end token.
    strip_thinking: thoughts are taken off, wherever they stand beside an answer.
    """

    merge_system: bool = False
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    strip_thinking: bool = True


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens, read (prompt) and written (completion), and per hour of one GPU."""

    prompt: float
    completion: float
    gpu_hour: float = 0.0


@dataclass(frozen=True)
class Card:
    """The contents of one card.

    backend: one of BACKENDS. model, revision: what the backend loads or asks for; package: a Python package that
    carries the weights as a GGUF file, for where there is no hub.
    chat, mix: how it is asked, see ``Chat`` and ``udrl.teacher.mixes``; an empty mix: the backend's own settings.
    invent: engine settings for inventing inputs.
    prices: None: not stated. base_url: where an endpoint listens. settings: by backend, checked by it.
    path: the file that the card was read from.
    """

    name: str
    title: str
    description: str
    backend: str
    model: str
    revision: str | None
    licence: Licence
    path: Path
    chat: Chat = field(default_factory=Chat)
    mix: tuple[Setting, ...] = ()
    invent: Mapping[str, float] = field(default_factory=lambda: dict(INVENT))
    prices: Prices | None = None
    base_url: str | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    package: str | None = None

    @property
    def output_arguments(self) -> Mapping[str, Any]:
        """What of the card changes the words that are written, whichever backend runs it: part of every key."""
        arguments: dict[str, Any] = {}
        if self.chat.merge_system:
            arguments["merge_system"] = True
        if self.chat.template_arguments:
            arguments["template_arguments"] = dict(self.chat.template_arguments)
        if self.chat.stop:
            arguments["stop"] = list(self.chat.stop)
        return arguments


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


def at_endpoint(card: Card, base_url: str) -> Card:
    """Return ``card`` with its model asked for at the OpenAI-compatible endpoint ``base_url``, whatever its backend.

    Its revision is left open: which one an endpoint serves is not known here.
    Raises UsageError for the built-in teacher, which has no model that an endpoint could serve.
    """
    if card.backend == "builtin":
        raise UsageError("the built-in teacher writes by itself: name another --teacher, or leave --base-url out")
    return replace(card, backend="openai", base_url=base_url, revision=None)


def adjusted(card: Card, *, backend: str | None = None, engine_arguments: Mapping[str, Any] | None = None) -> Card:
    """Return ``card`` behind another ``backend`` of BACKENDS, and with these arguments of vLLM's engine.

    The backends 'vllm' and 'ray' both take engine arguments from ``settings: vllm``.
    Raises UsageError for the built-in teacher, an unknown backend, and engine arguments for another backend.
    """
    if backend is not None and backend != card.backend:
        if "builtin" in (backend, card.backend):
            raise UsageError(f"teacher '{card.name}' cannot be run by the backend '{backend}': leave --backend out")
        if backend not in BACKENDS:
            raise unknown("backend", backend, BACKENDS[1:])
        card = replace(card, backend=backend)
    if engine_arguments:
        if card.backend not in ("vllm", "ray"):
            raise UsageError(
                f"teacher '{card.name}' runs by the backend '{card.backend}', which takes no engine arguments: leave "
                "--engine-arg out"
            )
        merged = {**card.settings.get("vllm", {}), **engine_arguments}
        card = replace(card, settings={**card.settings, "vllm": merged})
    return card


def backend_settings(card: Card, backend: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``defaults`` with what the card sets for ``backend``.

    Raises TaskError for a setting that is not among the defaults, or is of another kind (None takes text).
    """
    given = card.settings.get(backend, {})
    where = f"{card.path}: settings: {backend}"
    yamlfile.check_keys(given, where=where, optional=tuple(defaults))
    given = {
        key: int(value) if isinstance(value, float) and value.is_integer() and type(defaults[key]) is int else value
        for key, value in given.items()
    }  # 1e3
    for key, value in given.items():
        kind = str if defaults[key] is None else type(defaults[key])
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits:
            raise TaskError(f"{where}: key '{key}' must be of the kind {kind.__name__}, found {value!r}")
        if isinstance(value, int | float) and kind is not bool and not 0 < value < 1e9:
            raise TaskError(f"{where}: key '{key}' must be above 0, found {value!r}")
    return {**defaults, **given}


def _read(path: Path) -> Card:
    where = str(path)
    data = yamlfile.read_mapping(path, kind="teacher card")
    yamlfile.check_keys(
        data,
        where=where,
        required=("name", "title", "description", "backend", "model", "licence"),
        optional=("revision", "chat", "sampling", "priming", "invent", "prices", "base_url", "settings", "package"),
    )
    backend = yamlfile.text_at(data, "backend", where=where)
    if backend not in BACKENDS:
        raise TaskError(
            f"{where}: key 'backend': unknown backend '{backend}'{suggestion(backend, BACKENDS)}; "
            f"known: {', '.join(BACKENDS)}"
        )
    licence = yamlfile.mapping_at(data, "licence", where=where)
    yamlfile.check_keys(licence, where=f"{where}: licence", required=("name", "outputs"))
    if backend == "builtin":
        for key in ("chat", "sampling", "priming", "invent", "prices", "base_url", "settings", "package"):
            if key in data:
                raise TaskError(f"{where}: key '{key}': the backend 'builtin' has none, take the key out")
    elif "sampling" not in data:
        raise TaskError(f"{where}: key 'sampling' is missing: list the settings to write with, the careful one first")
    return Card(
        name=yamlfile.text_at(data, "name", where=where),
        title=yamlfile.text_at(data, "title", where=where),
        description=yamlfile.text_at(data, "description", where=where).strip(),
        backend=backend,
        model=yamlfile.text_at(data, "model", where=where),
        revision=_optional_text(data, "revision", where=where),
        licence=Licence(
            *(yamlfile.text_at(licence, key, where=f"{where}: licence").strip() for key in ("name", "outputs"))
        ),
        path=path,
        chat=_chat(yamlfile.mapping_at(data, "chat", where=where), where=where) if "chat" in data else Chat(),
        mix=read_mix(data["sampling"], where=where, priming=_priming(data, where=where)) if "sampling" in data else (),
        invent=read_engine(yamlfile.mapping_at(data, "invent", where=where), where=f"{where}: invent")
        if "invent" in data
        else dict(INVENT),
        prices=_prices(yamlfile.mapping_at(data, "prices", where=where), where=where) if "prices" in data else None,
        base_url=_optional_text(data, "base_url", where=where),
        settings=_settings(data, where=where),
        package=_optional_text(data, "package", where=where),
    )


def _priming(data: Mapping[str, Any], *, where: str) -> dict[str, str]:
    return read_priming(yamlfile.mapping_at(data, "priming", where=where), where=where) if "priming" in data else {}


def _optional_text(data: Mapping[str, Any], key: str, *, where: str) -> str | None:
    return None if data.get(key) is None else yamlfile.text_at(data, key, where=where)


def _chat(data: dict[str, Any], *, where: str) -> Chat:
    where = f"{where}: chat"
    yamlfile.check_keys(data, where=where, optional=("system", "template_arguments", "stop", "thinking"))
    choices = {"system": ("separate", "merge"), "thinking": ("keep", "strip")}
    for key, known in choices.items():
        if key in data and data[key] not in known:
            raise TaskError(f"{where}: key '{key}' must be one of {', '.join(known)}, found {data[key]!r}")
    return Chat(
        merge_system=data.get("system") == "merge",
        template_arguments=yamlfile.switched(yamlfile.mapping_at(data, "template_arguments", where=where))
        if "template_arguments" in data
        else {},
        stop=yamlfile.texts_at(data, "stop", where=where) if "stop" in data else (),
        strip_thinking=data.get("thinking") != "keep",
    )


def _prices(data: dict[str, Any], *, where: str) -> Prices:
    where = f"{where}: prices"
    yamlfile.check_keys(data, where=where, required=("prompt", "completion"), optional=("gpu_hour",))
    for key, value in data.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise TaskError(f"{where}: key '{key}' must be US dollars, found {value!r}")
    return Prices(**{key: float(value) for key, value in data.items()})


def _settings(data: Mapping[str, Any], *, where: str) -> dict[str, dict[str, Any]]:
    settings = yamlfile.mapping_at(data, "settings", where=where) if "settings" in data else {}
    yamlfile.check_keys(settings, where=f"{where}: settings", optional=BACKENDS[1:])
    return {key: yamlfile.switched(yamlfile.mapping_at(settings, key, where=f"{where}: settings")) for key in settings}
