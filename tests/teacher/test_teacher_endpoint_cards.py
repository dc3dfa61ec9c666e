"""Cards of teachers behind an endpoint: addresses, and what is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from endpoint_teacher import plain_environment, quick_card  # noqa: F401

from udrl.errors import MissingDependency, TaskError, UsageError
from udrl.teacher import cards
from udrl.teacher.backends import choice
from udrl.teacher.backends.openai import OpenAITeacher
from udrl.teacher.protocol import Request


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://api.host/openai/v1/chat/completions", "https://api.host/openai/v1"),
        ("localhost:8000", None),
        ("ftp://host", None),
        ("http://user:key@host/v1", None),
    ],
)
def test_teacher_openai_reads_addresses(tmp_path: Path, url: str, found: str | None) -> None:
    card = cards.at_endpoint(cards.load_card(quick_card(tmp_path)), url)
    if found is None:
        with pytest.raises(UsageError):
            OpenAITeacher(card)
    else:
        assert OpenAITeacher(card).base_url == found


def test_teacher_cards_of_llms_name_what_to_do(tmp_path: Path) -> None:
    shipped = {name: cards.load_card(path) for name, path in cards.shipped_cards().items()}
    assert {"llama3", "llama3.1", "qwen2", "qwen3", "mistral", "ministral", "builtin"} <= set(shipped)
    for name, card in shipped.items():
        assert card.name == name
        if card.backend != "vllm":
            continue
        request = Request("key", "text-to-image", "id", "a fox", ({"role": "user", "content": "a fox"},), {}, 1, 0)
        with (
            closing(choice.start(card, tasks=())) as engine,
            pytest.raises(MissingDependency, match=r'pip install "udrl\[vllm\]".*--base-url'),
        ):
            list(engine.generate([request]))
        teacher = choice.start(cards.at_endpoint(card, "http://localhost:8000"), tasks=())
        mix = [teacher.sampling(n, 0, 10, 40) for n in range(4)]
        assert len({settings["temperature"] for settings in mix}) >= 3
        assert any("instruction" in settings for settings in mix), "four samples include a careless one"
        assert not {"instruction", "system", "min_words"} & set(teacher.careful(10, 40))


def test_teacher_cards_of_the_builtin_teacher_have_no_endpoint() -> None:
    with pytest.raises(UsageError, match="leave --base-url out"):
        choice.teacher("builtin", tasks=(), base_url="http://localhost:8000")


def test_teacher_cards_merge_the_system_message_only_where_needed() -> None:
    assert cards.load_card("mistral").chat.merge_system
    assert not cards.load_card("llama3").chat.merge_system
    assert cards.load_card("qwen3").chat.template_arguments == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": None}, "'sampling' is missing"),
        ({"sampling": [{"name": "a", "temprature": 1}]}, "did you mean temperature"),
        ({"sampling": [{"name": "a", "temperature": 9}]}, r"within \[0, 5\]"),
        ({"sampling": [{"name": "a", "instruction": "x"}]}, "careful one"),
        ({"sampling": [{"name": "a"}, {"name": "b", "instruction": "{words}"}]}, "unknown variable '{words}'"),
        ({"sampling": [{"name": "a"}, {"name": "a"}]}, "same name"),
        ({"chat": {"system": "mix"}}, "separate, merge"),
        ({"prices": {"prompt": "cheap", "completion": 1}}, "US dollars"),
        ({"settings": {"opnai": {}}}, "did you mean openai"),
        ({"settings": {"openai": {"timout": 3}}}, "did you mean timeout"),
        ({"settings": {"openai": {"attempts": 0}}}, "above 0"),
        ({"settings": {"openai": {"attempts": True}}}, "kind int"),
    ],
)
def test_teacher_cards_refuse_what_they_do_not_know(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        choice.teacher(quick_card(tmp_path, **changes), tasks=(), base_url="http://localhost:1/v1")
