"""Cards and requests of teachers behind an endpoint, for tests against a server of their own (``fault_server``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_server import FaultServer

from udrl.errors import TeacherError
from udrl.teacher.backends import choice
from udrl.teacher.backends.openai import OpenAITeacher
from udrl.teacher.protocol import Reply, Request


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def card_file(
    folder: Path, *, name: str = "tiny", second: dict[str, Any] | None = None, openai: dict[str, Any], **changes: Any
) -> Path:
    """Write a teacher card of one setting, or of a ``second`` one too, with ``openai``'s own settings."""
    data: dict[str, Any] = {
        "schema": 1,
        "name": "tiny",
        "title": "Tiny",
        "description": "A server of the tests.",
        "backend": "openai",
        "model": "tiny-model",
        "licence": {"name": "apache-2.0", "outputs": "no limits"},
        "sampling": [{"name": "careful", "temperature": 0.5}, *([] if second is None else [second])],
        "settings": {"openai": openai},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (data | changes).items() if v is not None}))
    return path


def quick_card(folder: Path, **changes: Any) -> Path:
    """Write a card of a server that answers within a moment or not at all."""
    return card_file(folder, openai={"timeout": 0.6, "attempts": 8}, **changes)


def teacher_of(tmp_path: Path, server: FaultServer, **changes: Any) -> OpenAITeacher:
    teacher = choice.teacher(quick_card(tmp_path, **changes), tasks=(), base_url=server.url)
    assert isinstance(teacher, OpenAITeacher)
    return teacher


def requests(count: int, *, system: bool = False) -> list[Request]:
    head = ({"role": "system", "content": "be brief"},) if system else ()
    return [
        Request(
            key=f"key-{n}",
            task="t",
            input_id=f"{n:016x}",
            input=f"input {n}",
            messages=(*head, {"role": "user", "content": f"write about {n} \ud800"}),
            sampling={"style": "careful", "temperature": 0.5, "max_tokens": 40},
            seed=n,
            sample=0,
        )
        for n in range(count)
    ]


def answers(teacher: OpenAITeacher, count: int) -> dict[str, Reply]:
    replies = list(teacher.generate(requests(count)))
    assert len(replies) == count, "every request is answered"
    by_key = {reply.key: reply for reply in replies}
    assert len(by_key) == count, "and none twice"
    return by_key


def kept(teacher: OpenAITeacher, count: int) -> tuple[list[Reply], str]:
    """Return the replies that came before the server was given up, and what was said then."""
    replies: list[Reply] = []
    with pytest.raises(TeacherError) as caught:
        replies.extend(teacher.generate(requests(count)))
    return replies, str(caught.value)
