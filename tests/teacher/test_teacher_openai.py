"""Endpoints as teachers, against a real HTTP server that fails on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_teacher import answers, kept, plain_environment, quick_card, requests, teacher_of  # noqa: F401
from fault_server import CUT, FAULTS, FINAL, NO_TEXTS, THOUGHTS, WAITS, FaultServer, storm, written

from udrl.data.finish import finish_of
from udrl.errors import TeacherError, UsageError
from udrl.teacher.backends import choice
from udrl.teacher.backends.congestion import Congestion
from udrl.teacher.backends.endpoint_health import HOPELESS
from udrl.teacher.backends.openai_response import Answer, Problem, read_answer, read_refusal
from udrl.teacher.protocol import Request


def test_teacher_openai_ends_every_request_in_a_storm(tmp_path: Path) -> None:
    settings = {"openai": {"timeout": 2.0, "attempts": 8}}
    with FaultServer(storm(0.2)) as server:
        replies = answers(teacher_of(tmp_path, server, settings=settings), 500)
    for number, request in enumerate(requests(500)):
        reply = replies[request.key]
        assert (reply.completion is None) != (reply.error is None)
        if reply.completion is not None:
            assert reply.completion == written({**server.bodies[0], "messages": list(request.messages), "seed": number})
    assert sum(reply.error is None for reply in replies.values()) >= 498, "20 % faults, 8 attempts"
    tries = Counter(body["seed"] for body in server.bodies)
    assert all(replies[f"key-{seed}"].attempts >= count for seed, count in tries.items())


@pytest.mark.parametrize("fault", FAULTS)
def test_teacher_openai_names_the_fault_that_does_not_pass(tmp_path: Path, fault: str) -> None:
    settings = {"openai": {"timeout": 0.3, "attempts": 2, "max_wait": 0.2}}
    with FaultServer(lambda number, body: fault if body["seed"] == 1 else "ok") as server:
        replies = answers(teacher_of(tmp_path, server, settings=settings), 3)
    assert [replies[f"key-{n}"].error is None for n in range(3)] == [True, False, True]
    reply = replies["key-1"]
    kinds = {"reset": "connection", "close": "connection", "half": "connection", "stall": "timeout", "drip": "timeout"}
    kind = f"http {fault}" if fault.isdigit() else kinds.get(fault, "answer")
    assert reply.error is not None
    assert reply.error.startswith(f"{kind}: ")
    assert reply.attempts == 4 or (fault in ("429", "503") and reply.attempts > 4), (
        "once more when the server has shown to be well"
    )


@pytest.mark.parametrize(("fault", "kind"), [("400", "http 400"), ("422", "http 422"), ("filtered", "filtered")])
def test_teacher_openai_does_not_retry_what_is_final(tmp_path: Path, fault: str, kind: str) -> None:
    with FaultServer(lambda number, body: fault if body["seed"] == 1 else "ok") as server:
        reply = answers(teacher_of(tmp_path, server), 2)["key-1"]
    assert reply.attempts == 1
    assert (reply.error or "").startswith(f"{kind}: ")
    assert [body["seed"] for body in server.bodies].count(1) == 1


def test_teacher_openai_recovers_its_concurrency_after_a_storm(tmp_path: Path) -> None:
    peaks: list[int] = []

    crowded = storm(0.5, faults=("503",))

    def plan(number: int, body: dict[str, Any]) -> str:
        if number in (100, 200):
            peaks.append(server.peak)
            server.peak = 0
        return crowded(number, body) if 100 <= number < 200 else "ok"

    settings = {"openai": {"timeout": 30.0, "max_concurrency": 12, "attempts": 20}}
    with FaultServer(plan, seconds=0.2, retry_after="0.01") as server:
        replies = answers(teacher_of(tmp_path, server, settings=settings), 400)
        peaks.append(server.peak)
    assert not [reply.error for reply in replies.values() if reply.error]
    assert peaks[0] == 12, "doubles every round up to the most"
    assert peaks[2] == 12, "is back where it was"


def test_teacher_openai_stays_near_what_a_crowded_server_takes(tmp_path: Path) -> None:
    settings = {"openai": {"timeout": 5.0, "max_concurrency": 64, "attempts": 30}}
    with FaultServer(seconds=0.01, capacity=6, retry_after="0.01") as server:
        replies = answers(teacher_of(tmp_path, server, settings=settings), 400)
    assert not [reply.error for reply in replies.values() if reply.error]
    assert len(server.bodies) < 2 * 400, "most of what is sent is taken"


def test_teacher_openai_congestion_halves_once_a_round_and_grows_by_one_a_round() -> None:
    congestion = Congestion(most=100, start=8)
    good = Answer("text", "stop", None, None)
    crowded = Problem("http 429", "", passing=True, crowded=True)
    for _ in range(24):
        congestion.learn(0, good)
    assert congestion.limit == 32
    for _ in range(10):
        congestion.learn(0, crowded)
    assert congestion.limit == 16, "all ten are of the same round"
    congestion.learn(1, Problem("http 500", "", passing=True))
    assert congestion.limit == 16, "a plain 500 is no crowding"
    for _ in range(17):
        congestion.learn(1, good)
    assert congestion.limit == 17


def test_teacher_openai_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    times: list[float] = []

    def plan(number: int, body: dict[str, Any]) -> str:
        times.append(time.monotonic())
        return "429" if number == 0 else "ok"

    with FaultServer(plan, retry_after="0.7") as server:
        answers(teacher_of(tmp_path, server), 1)
    assert times[1] - times[0] >= 0.7


def test_teacher_openai_does_not_wait_for_a_daily_quota(tmp_path: Path) -> None:
    with FaultServer(lambda number, body: "429" if body["seed"] == 1 else "ok", retry_after="86400") as server:
        replies = answers(teacher_of(tmp_path, server, settings={"openai": {"max_concurrency": 1}}), 2)
    assert replies["key-1"].error == (
        "http 429: fault 429 (asks to wait 86,400 s; waited 0 s of the 600 s that 'max_wait' allows)"
    )


def test_teacher_openai_is_told_to_wait_without_losing_an_attempt(tmp_path: Path) -> None:
    """More refusals than there are attempts: with a wait in a header, in the words, and without any."""
    faults = {0: "429", 1: "wait-words", 2: "503"}
    settings = {"openai": {"timeout": 5.0, "attempts": 1, "max_concurrency": 1, "max_wait": 20.0}}
    with FaultServer(lambda number, body: faults[number // 4] if number < 12 else "ok", retry_after="0.01") as server:
        (reply,) = teacher_of(tmp_path, server, settings=settings).generate(requests(1))
    assert reply.error is None
    assert reply.attempts == 13


@pytest.mark.parametrize("fault", ["429", "500", "503", "garbage", "close", "choice-error"])
def test_teacher_openai_records_no_failure_of_a_server_that_is_ill_at_the_end(tmp_path: Path, fault: str) -> None:
    settings = {"openai": {"timeout": 5.0, "attempts": 1, "max_concurrency": 1, "max_wait": 0.05}}
    with FaultServer(lambda number, body: "ok" if number < 6 else fault) as server:
        replies, said = kept(teacher_of(tmp_path, server, settings=settings), 12)
    assert [reply.key for reply in replies] == [f"key-{n}" for n in range(6)]
    assert "6 requests are left unanswered: see to the server and start again" in said


@pytest.mark.parametrize("fault", ["500", "garbage", "reset", "401"])
def test_teacher_openai_asks_once_more_what_failed_while_the_server_was_ill(tmp_path: Path, fault: str) -> None:
    settings = {"openai": {"timeout": 5.0, "attempts": 1, "max_concurrency": 1}}
    with FaultServer(lambda number, body: fault if 3 <= number < 9 else "ok") as server:
        replies = answers(teacher_of(tmp_path, server, settings=settings), 12)
    assert [reply.error for reply in replies.values()] == [None] * 12
    assert sorted(reply.attempts for reply in replies.values()) == [1] * 6 + [2] * 6


def test_teacher_openai_takes_requests_lazily(tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[Request]:
        nonlocal taken
        while True:
            taken += 1
            yield requests(1)[0]

    with FaultServer() as server:
        stream = teacher_of(tmp_path, server, settings={"openai": {"max_concurrency": 4}}).generate(endless())
        for seen in range(1, 101):
            next(stream)
            assert taken <= seen + 5
        stream.close()  # type: ignore[attr-defined]


def test_teacher_openai_closing_ends_what_is_in_flight(tmp_path: Path) -> None:
    before = threading.active_count()
    with FaultServer(lambda number, body: "stall" if number else "ok") as server:
        teacher = teacher_of(tmp_path, server, settings={"openai": {"timeout": 60.0}})
        stream = teacher.generate(requests(50))
        next(stream)
        while not server.active:
            time.sleep(0.01)
        started = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert time.monotonic() - started < 5
        deadline = time.monotonic() + 5
        while server.active and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.active == 0, "the server sees the connections end"
        assert threading.active_count() == before + 1, "only the server's thread is left"


def test_teacher_openai_passes_on_an_error_of_the_requests(tmp_path: Path) -> None:
    def broken() -> Iterator[Request]:
        yield from requests(3)
        raise RuntimeError("no more inputs")

    with FaultServer() as server, pytest.raises(RuntimeError, match="no more inputs"):
        list(teacher_of(tmp_path, server).generate(broken()))


def test_teacher_openai_sends_what_the_card_says(tmp_path: Path) -> None:
    chat = {"system": "merge", "stop": ["<|end|>"], "template_arguments": {"enable_thinking": False}}
    chat["thinking"] = "strip"
    with FaultServer(lambda number, body: "thinking") as server:
        teacher = teacher_of(tmp_path, server, chat=chat)
        (reply,) = teacher.generate(requests(1, system=True))
    assert server.headers[0][""].startswith("POST /v1/chat/completions ")
    assert "authorization" not in server.headers[0], "no key, no header"
    assert server.bodies[0] == {
        "model": "tiny-model",
        "messages": [{"role": "user", "content": "be brief\n\nwrite about 0 \ud800"}],
        "seed": 0,
        "temperature": 0.5,
        "max_tokens": 40,
        "stop": ["<|end|>"],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert (reply.completion or "").startswith("completion ")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish_reason) == (7, 5, "stop")
    assert teacher.engine_arguments["merge_system"] is True, "what changes the words is part of the key"


def test_teacher_openai_keeps_the_key_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    settings = {"openai": {"api_key_env": "MY_KEY"}}
    with FaultServer(lambda number, body: "auth") as server, pytest.raises(TeacherError, match="refuses") as caught:
        list(teacher_of(tmp_path, server, settings=settings).generate(requests(5)))
    assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in str(caught.value)
    assert "***" in str(caught.value)


def test_teacher_openai_takes_the_line_end_off_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\r\n")
    with FaultServer() as server:
        answers(teacher_of(tmp_path, server), 1)
    assert server.headers[0]["authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("key", ["“sk-secret”", "sk-sec\nret", "Bearer sk-secret", "sk-s\udce9cret"])
def test_teacher_openai_refuses_a_key_that_cannot_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="variable OPENAI_API_KEY cannot be sent") as caught:
        choice.teacher(quick_card(tmp_path), tasks=(), base_url="http://localhost:1/v1")
    assert "cret" not in str(caught.value)


def test_teacher_openai_masks_a_key_before_it_cuts_what_quotes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "long" * 100)
    with FaultServer(lambda number, body: "auth") as server, pytest.raises(TeacherError, match="refuses") as caught:
        list(teacher_of(tmp_path, server).generate(requests(1)))
    assert "longlong" not in str(caught.value)
    quoted = Problem("http 401", 'no "sk\\/a" ' + "x" * 900, passing=False).without("sk/a")
    assert quoted.detail == 'no "***" ' + "x" * 291
    assert str(Problem("http 401", "wrong", passing=False).without("1")) == "http 401: wrong", "its kind stays"


@pytest.mark.parametrize("fault", ["refusal", "parts"])
def test_teacher_openai_reads_variants_of_answers(tmp_path: Path, fault: str) -> None:
    with FaultServer(lambda number, body: fault if number else "ok") as server:
        replies = answers(teacher_of(tmp_path, server), 2)
    last = [reply for reply in replies.values() if reply.completion is None]
    assert [reply.error for reply in last] == (["filtered: refused: no"] if fault == "refusal" else [])


def test_teacher_openai_does_not_pay_twice_for_thoughts_without_a_text(tmp_path: Path) -> None:
    with FaultServer(lambda number, body: "thoughts" if body["seed"] == 1 else "ok") as server:
        reply = answers(teacher_of(tmp_path, server), 2)["key-1"]
    assert (reply.error or "").startswith("answer: has no text, because thoughts took all of its tokens")
    assert (reply.attempts, reply.prompt_tokens, reply.completion_tokens) == (1, 7, 5)


def test_teacher_openai_counts_what_failed_attempts_took(tmp_path: Path) -> None:
    nothing: Any = lambda body: None if len(server.bodies) < 3 else "text"  # noqa: E731
    with FaultServer(write=nothing) as server:
        (reply,) = teacher_of(tmp_path, server).generate(requests(1))
    assert (reply.completion, reply.attempts) == ("text", 3)
    assert (reply.prompt_tokens, reply.completion_tokens) == (3 * 7, 3 * 5)
    with FaultServer(lambda number, body: "filtered") as server:
        (reply,) = teacher_of(tmp_path, server).generate(requests(1))
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 5)


def test_teacher_openai_keeps_failures_that_were_paid_for(tmp_path: Path) -> None:
    with FaultServer(lambda number, body: "thoughts") as server:
        replies, said = kept(teacher_of(tmp_path, server), 200)
    assert len(replies) >= HOPELESS
    assert {reply.completion_tokens for reply in replies} == {5}
    assert "in a row" in said


@pytest.mark.parametrize("depth", [10, 100_000])
def test_teacher_openai_survives_deep_json(depth: int) -> None:
    assert isinstance(read_answer(b"[" * depth + b"]" * depth), Problem)


@pytest.mark.parametrize("counts", [("many", -3), (10**30, 2**63), (True, 1.5), (None, [9])])
def test_teacher_openai_counts_only_sensible_tokens(counts: tuple[Any, Any]) -> None:
    """A count that the ledger cannot hold would keep the run from ever being read again."""
    usage = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
    body = {"choices": [{"message": {"content": "text"}}], "usage": usage}
    assert read_answer(json.dumps(body).encode()) == Answer("text", "stop", None, None)


@pytest.mark.parametrize("what", [*WAITS, *NO_TEXTS, *FINAL, *CUT, *THOUGHTS])
def test_teacher_openai_keeps_whole_answers_only(tmp_path: Path, what: str) -> None:
    settings = {"openai": {"timeout": 5.0, "attempts": 1}}
    with FaultServer(lambda number, body: what if body["seed"] == 1 else "ok") as server:
        if what in WAITS:  # told to wait three times
            server.plan = lambda number, body: what if number < 3 else "ok"
        reply = answers(teacher_of(tmp_path, server, settings=settings), 2)["key-1"]
    good = written({**server.bodies[0], "messages": list(requests(2)[1].messages), "seed": 1})
    if what in CUT:
        assert (reply.completion, reply.finish_reason) == (" ".join(good.split()[:3]), what)
        assert finish_of(reply.finish_reason) == "unfinished"
    elif what in WAITS or what in THOUGHTS:
        assert (reply.completion, reply.error) == (good, None)
        assert finish_of(reply.finish_reason) == "finished"
    else:
        assert reply.completion is None
        words = {"choice-error": "http 502: Upstream provider failed", "reason-error": "answer: broke off (error)"}
        assert (reply.error or "").startswith(words.get(what, "filtered" if what == "safety" else "answer: "))
        assert reply.attempts == (1 if what in FINAL else 2)


def test_teacher_openai_names_the_setting_where_a_template_refuses(tmp_path: Path) -> None:
    found = read_refusal(400, {}, b'{"error": {"message": "System role not supported"}}')
    assert str(found).startswith("http 400: System role not supported (set 'chat: system: merge'")
