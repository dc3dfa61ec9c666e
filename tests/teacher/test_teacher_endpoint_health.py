"""Whether an endpoint is given up, and what becomes of its failures, against a real HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from endpoint_teacher import answers, kept, plain_environment, quick_card, requests, teacher_of  # noqa: F401
from fault_server import FaultServer

from udrl.errors import TeacherError
from udrl.teacher.backends import choice


def test_teacher_openai_says_when_nobody_listens(tmp_path: Path) -> None:
    with FaultServer() as server:
        url = server.url
    teacher = choice.teacher(quick_card(tmp_path, settings={"openai": {"attempts": 2}}), tasks=(), base_url=url)
    with pytest.raises(TeacherError, match="cannot be reached"):
        list(teacher.generate(requests(3)))


def test_teacher_openai_gives_up_a_server_that_fails_everything(tmp_path: Path) -> None:
    with FaultServer(lambda number, body: "400") as server:
        stream = teacher_of(tmp_path, server).generate(requests(1000))
        failed = []
        with pytest.raises(TeacherError, match="in a row"):
            failed.extend(stream)
    assert len(server.bodies) < 400, "what was not asked stays to do"


@pytest.mark.parametrize("fault", ["401", "402", "403", "404", "400"])
def test_teacher_openai_keeps_no_failure_of_a_server_that_it_gives_up(tmp_path: Path, fault: str) -> None:
    with FaultServer(lambda number, body: fault) as server:
        replies, said = kept(teacher_of(tmp_path, server), 200 if fault == "400" else 20)
    assert replies == [], "all of it is asked for again"
    assert f"http {fault}" in said


def test_teacher_openai_keeps_no_failure_after_the_key_was_withdrawn(tmp_path: Path) -> None:
    """Three requests that were let in before are answered among the refusals, and show nothing."""

    def delay(body: dict[str, Any]) -> float:
        return 0.1 * (body["seed"] - 9) if body["seed"] >= 10 else 0.0

    with FaultServer(
        lambda number, body: "ok" if body["seed"] < 13 and body["max_tokens"] == 40 else "401", delay=delay
    ) as server:
        settings = {"openai": {"max_concurrency": 4, "timeout": 5.0}}
        replies, said = kept(teacher_of(tmp_path, server, settings=settings), 40)
    assert sorted(reply.key for reply in replies) == sorted(f"key-{n}" for n in range(13))
    assert not [reply for reply in replies if reply.error]
    assert "refuses (http 401" in said


def test_teacher_openai_keeps_failures_once_the_server_is_well_again(tmp_path: Path) -> None:
    with FaultServer(lambda number, body: "401" if body["seed"] == 5 else "ok") as server:
        settings = {"openai": {"max_concurrency": 1}}
        replies = answers(teacher_of(tmp_path, server, settings=settings), 20)
    assert [key for key, reply in replies.items() if reply.error] == ["key-5"]


def test_teacher_openai_keeps_the_last_refusal_of_a_server_that_answers(tmp_path: Path) -> None:
    with FaultServer(lambda number, body: "403" if body["seed"] == 19 else "ok") as server:
        replies = answers(teacher_of(tmp_path, server), 20)
    assert (replies["key-19"].error or "").startswith("http 403"), "a filter, not the key"


def test_teacher_openai_does_not_give_up_a_server_that_refuses_single_requests(tmp_path: Path) -> None:
    with FaultServer(lambda number, body: "422" if number < 100 else "ok") as server:
        replies = list(teacher_of(tmp_path, server).generate(requests(120)))
    assert sum(reply.error is None for reply in replies) == 20
