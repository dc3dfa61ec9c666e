"""A teacher of the tests that answers with the input, and small runs that it writes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.ledger import Ledger
from udrl.teacher.backends import choice
from udrl.teacher.protocol import Reply, Request
from udrl.teacher.synthesis.synth import SynthReport, synth

IMAGE = "text-to-image"


def small(run: Path, **changes: Any) -> SynthReport:
    options: dict[str, Any] = {"tasks": [IMAGE], "num_inputs": 20, "samples": 2, "score": False}
    return synth(run, **{**options, **changes})


def all_episodes(run: Path) -> list[Episode]:
    return read_episodes(run / "episodes", splits=("train", "validation", "test"), kept=False)


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the ledger's rows without what two runs cannot share: when it was, and how long it took."""
    found = [row for _, row in Ledger(run / "ledger").rows()]
    return [{k: v for k, v in row.items() if k not in ("started", "seconds")} for row in found]


class Echo:
    """A small teacher for these tests: answers with the input, fails or stops where it is told to."""

    name = "echo"
    model = "echo"
    revision: str | None = None
    engine_arguments: Mapping[str, Any] = {}
    gpus = 0

    def __init__(self, *, fail: Iterable[str] = (), window: int = 1, seconds: float = 0.0) -> None:
        self.fail = set(fail)
        self.window = window
        self.seconds = seconds
        self.asked: list[Request] = []
        self.closed = False

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        return {"temperature": 0.5 + index / 10}

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        return {"temperature": 0.0}

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Keep ``window`` requests in flight and answer the latest first, as engines may."""
        flying: list[Request] = []
        for request in requests:
            self.asked.append(request)
            flying.append(request)
            if len(flying) >= self.window:
                yield self._reply(flying.pop())
        while flying:
            yield self._reply(flying.pop())

    def close(self) -> None:
        self.closed = True

    def _reply(self, request: Request) -> Reply:
        time.sleep(self.seconds)
        failed = request.input in self.fail
        return Reply(
            key=request.key,
            completion=None if failed else f"{request.input}, told in version number {request.sample}",
            finish_reason=None if failed else "stop",
            prompt_tokens=3,
            completion_tokens=5,
            started=time.time(),
            seconds=0.0,
            error="timeout: no answer" if failed else None,
        )


def start_echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    """Let every synthesis start one ``Echo``, and return it."""
    teacher = Echo()
    monkeypatch.setattr(choice, "start", lambda _card, *, tasks: teacher)
    return teacher


def write_inputs(tmp_path: Path, texts: Iterable[str]) -> Path:
    path = tmp_path / "inputs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path
