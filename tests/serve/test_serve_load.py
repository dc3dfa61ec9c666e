"""What a server does when it is full, slow, left alone, broken, or told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import Server, serving
from tiny_answering import TASK, TEXTS, save_exported, tiny_student

from udrl.commands import Command
from udrl.errors import UsageError
from udrl.serve.options import ServeOptions, chosen_key
from udrl.student.student import Student

KEY = "s3cret"


class Held:
    """An engine that reads no prompt before it is let, and fails if told to."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.free, self.fails = engine, threading.Event(), False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def start(self, prompts: Any) -> Any:
        assert self.free.wait(60)
        if self.fails:
            raise RuntimeError("out of luck")
        return self.engine.start(prompts)


@pytest.fixture
def held() -> Iterator[Student]:
    student = tiny_student()
    student.computes = Held(student.computes)  # type: ignore[assignment]
    yield student
    student.computes.free.set()  # type: ignore[attr-defined]


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def pending(server: Server) -> int:
    return server.api.students["tiny"].worker.pending


def test_a_full_queue_is_refused_with_429_and_takes_requests_again(held: Student) -> None:
    with serving({"tiny": held}, batch_size=1, queue=2) as server, ThreadPoolExecutor(3) as pool:
        taken = [pool.submit(server.post, prompt="a", seed=k) for k in range(3)]
        until(lambda: pending(server) == 3)
        refused = server.post(prompt="a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        page = server.client.get("/metrics").text
        assert 'udrl_waiting{student="tiny"} 2.0' in page
        assert 'udrl_writing{student="tiny"} 1.0' in page
        held.computes.free.set()  # type: ignore[attr-defined]
        assert [one.result().status_code for one in taken] == [200] * 3
        assert server.post(prompt="a").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_written_for_no_longer(held: Student, stream: bool) -> None:
    with serving({"tiny": held}, batch_size=1, queue=2) as server:
        body = json.dumps({"prompt": "a fox", "n": 2, "stream": stream}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        with server.send(head.encode() + body):
            until(lambda: pending(server) == 2)
        until(lambda: pending(server) == 0)
        held.computes.free.set()  # type: ignore[attr-defined]
        answer = server.post(prompt=TEXTS[0], seed=1).json()
        expected = held.generate([TEXTS[0]], [Command(TASK)], seeds=[1])[0].completion
        assert answer["choices"][0]["text"] == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_told_so(held: Student, stream: bool) -> None:
    with serving({"tiny": held}, timeout=0.05) as server:
        response = server.post(prompt="a fox", stream=stream)
        if stream:
            error = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
        else:
            assert response.status_code == 504
            error = response.json()["error"]
        assert error["code"] == "timeout"
        assert pending(server) == 0
        held.computes.free.set()  # type: ignore[attr-defined]


def test_an_engine_that_fails_costs_what_it_was_writing_and_no_more(held: Student) -> None:
    with serving({"tiny": held}) as server:
        engine: Any = held.computes
        engine.fails = True
        engine.free.set()
        failed = server.post(prompt="a fox")
        assert failed.status_code == 500
        assert "RuntimeError: out of luck" in failed.json()["error"]["message"]
        engine.fails = False
        assert server.post(prompt="a fox").status_code == 200
        assert server.client.get("/ready").json() == {"status": "ready", "students": ["tiny"]}


def test_a_key_is_asked_for_where_there_is_one() -> None:
    with serving({"tiny": tiny_student()}, key=KEY) as server:
        for sent in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
            refused = server.request(b"{}", **sent)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
        assert server.client.get("/metrics").status_code == 401
        assert server.client.get("/health").json() == {"status": "ok"}
        assert server.request(b'{"prompt": "a"}', authorization=f"Bearer {KEY}").status_code == 200


def test_pages_of_others_cannot_ask_a_server_of_this_machine() -> None:
    body = b'{"prompt": "a"}'
    with serving({"tiny": tiny_student()}, origins=("http://good.example",)) as server:
        assert server.request(body, host="evil.example").json()["error"]["code"] == "wrong_host"
        assert server.request(body, origin="http://evil.example").json()["error"]["code"] == "wrong_origin"
        assert server.request(body, origin=server.url).status_code == 200
        allowed = server.request(body, origin="http://good.example")
        assert allowed.headers["access-control-allow-origin"] == "http://good.example"
        preflight = server.client.options("/v1/completions", headers={"origin": "http://good.example"})
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "http://good.example")


def test_metrics_count_what_was_read_and_written() -> None:
    with serving({"tiny": tiny_student()}) as server:
        usage = server.post(prompt="a fox", length=300).json()["usage"]
        server.request(b"{")
        page = server.client.get("/metrics").text
    for line in (
        'udrl_requests_total{path="/v1/completions",status="200",student="tiny"} 1.0',
        'udrl_requests_total{path="/v1/completions",status="400",student=""} 1.0',
        f'udrl_prompt_tokens_total{{student="tiny"}} {usage["prompt_tokens"]}.0',
        f'udrl_completion_tokens_total{{student="tiny"}} {usage["completion_tokens"]}.0',
        'udrl_clamped_targets_total{attribute="length",student="tiny"} 1.0',
    ):
        assert line in page


@pytest.mark.parametrize("log_texts", [False, True])
def test_texts_are_logged_only_if_asked(capfd: pytest.CaptureFixture[str], log_texts: bool) -> None:
    with serving({"tiny": tiny_student()}, log_texts=log_texts) as server:
        answer = server.post(prompt="a secret fox", ban=["secret"], seed=1)
    [line] = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (line["event"], line["status"], line["student"]) == ("request", 200, "tiny")
    assert line["id"] == answer.headers["x-request-id"]
    assert line["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert ("secret" in str(line)) == log_texts
    assert line.get("completions") == ([answer.json()["choices"][0]["text"]] if log_texts else None)


def test_a_host_that_others_reach_needs_a_key_or_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UDRL_TEST_KEY", raising=False)
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert chosen_key(host, None, False) is None
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError, match="--api-key-env VAR"):
            chosen_key(host, None, False)
        assert chosen_key(host, None, True) is None
    with pytest.raises(UsageError, match="UDRL_TEST_KEY holds no key"):
        chosen_key("0.0.0.0", "UDRL_TEST_KEY", False)
    with pytest.raises(UsageError, match="exclude each other"):
        chosen_key("0.0.0.0", "UDRL_TEST_KEY", True)
    monkeypatch.setenv("UDRL_TEST_KEY", KEY)
    assert chosen_key("0.0.0.0", "UDRL_TEST_KEY", False) == KEY
    assert KEY not in repr(ServeOptions({"a": Path("x")}, key=KEY))


@pytest.mark.parametrize("name", ["", "a:b", "a/b", " a"])
def test_a_student_has_a_name_that_clients_can_write(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a student"):
        ServeOptions({name: Path("x")})


PROGRAM = """
import sys
from udrl.cli.main import run
code = run(sys.argv[1:])
heavy = sorted({"torch", "transformers", "sklearn", "datasets", "pandas"} & sys.modules.keys())
print(heavy, flush=True)
sys.exit(code)
"""


def test_sigterm_ends_the_process_when_what_it_writes_is_written(tmp_path: Path) -> None:
    """And a server of an exported student never imports torch."""
    save_exported(tiny_student(), tmp_path / "student")
    arguments = ["serve", "--student", f"tiny={tmp_path / 'student'}", "--port", "0", "--json", "--engine", "onnx-fp32"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    with process, httpx2.Client(timeout=60) as client:
        started = json.loads(process.stdout.readline())
        assert started["students"] == ["tiny"]
        body = {"prompt": ["a fox"] * 64, "n": 2, "max_tokens": 60, "stream": True, "temperature": 3.0}
        with client.stream("POST", f"{started['url']}/v1/completions", json=body) as response:
            chunks = response.iter_text()
            text = next(chunks)
            process.send_signal(signal.SIGTERM)
            text += "".join(chunks)
        assert text.endswith("data: [DONE]\n\n")
        assert text.count('"finish_reason":"') == 128
        assert process.stdout.readline() == "[]\n"
        assert process.wait(60) == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{started['url']}/health")
