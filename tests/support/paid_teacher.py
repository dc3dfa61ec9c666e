"""A teacher of the tests whose answers cost tokens, seconds and GPUs, and the runs that it writes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from udrl.data.ledger import Ledger
from udrl.teacher.backends import choice
from udrl.teacher.cards import Card
from udrl.teacher.protocol import Reply, Request
from udrl.teacher.synthesis.synth import SynthReport, synth

IMAGE = "text-to-image"
Maker = Callable[..., SynthReport]


class Paid:
    """A teacher that takes 100 tokens to read and 20 to write, on ``gpus`` GPUs, with ``window`` in flight."""

    revision: str | None = None
    engine_arguments: Mapping[str, Any] = {}

    def __init__(self, card: Card, *, window: int = 4, gpus: int = 0, seconds: float = 0.0) -> None:
        self.name, self.model = card.name, card.model
        self.window, self.gpus, self.seconds = window, gpus, seconds
        self.asked: list[Request] = []
        self.events: list[str] = []

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        return {"temperature": 0.5 + index / 10, "max_tokens": 200}

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        return {"temperature": 0.0}

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        flying: list[Request] = []
        for request in requests:
            self.asked.append(request)
            self.events.append("ask")
            flying.append(request)
            if len(flying) >= self.window:
                yield self._reply(flying.pop(0))
        while flying:
            yield self._reply(flying.pop(0))

    def close(self) -> None:
        self.events.append("close")

    def _reply(self, request: Request) -> Reply:
        time.sleep(self.seconds)
        text = f"{self.name} on {request.input} in version {request.sample}"
        return Reply(request.key, text, "stop", 100, 20, time.time(), self.seconds)


def card_file(
    folder: Path, name: str, *, prices: tuple[float, float] | None = (1.0, 5.0), licence: str = "mit"
) -> Path:
    card: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "title": name.title(),
        "description": "A teacher of the tests.",
        "backend": "openai",
        "base_url": "http://localhost:1/v1",
        "model": f"org/{name}",
        "licence": {"name": licence, "outputs": f"what {name} allows"},
        "sampling": [{"name": "careful"}],
    }
    if prices is not None:
        card["prices"] = {"prompt": prices[0], "completion": prices[1]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card))
    return path


def start_paid(monkeypatch: pytest.MonkeyPatch) -> dict[str, Paid]:
    """Let every teacher be a ``Paid``, and return those of the test by name; each is made at its first start."""
    teachers: dict[str, Paid] = {}

    def start(card: Card, *, tasks: object) -> Paid:
        return teachers.setdefault(card.name, Paid(card))

    monkeypatch.setattr(choice, "start", start)
    return teachers


def maker(folder: Path) -> Maker:
    """Return what synthesises 60 inputs with 2 samples in ``folder``, with the teacher ``a`` unless told otherwise."""
    card_file(folder, "a")

    def run(name: str = "run", **changes: Any) -> SynthReport:
        options = {"teacher": folder / "a.yaml", "tasks": [IMAGE], "num_inputs": 60, "samples": 2, "score": False}
        return synth(folder / name, **{"invent": False, **options, **changes})

    return run


def writers(run: Path) -> Counter[str]:
    return Counter(row["teacher"] for _, row in Ledger(run / "ledger").rows())
