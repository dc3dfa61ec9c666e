"""A real HTTP server with the chat interface of OpenAI's, which fails in the ways that servers fail."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

Plan = Callable[[int, dict[str, Any]], str]
"""From the number of the request (from 0) and its body to what is done with it: see ``FaultServer._behave``."""

FAULTS = (
    "500",
    "503",
    "429",
    "reset",
    "close",
    "stall",
    "half",
    "garbage",
    "empty-choices",
    "no-choices",
    "null-content",
    "number-content",
    "list",
    "error-200",
    "drip",
)


def _choice(good: dict[str, Any], **changes: Any) -> tuple[str, str, str]:
    return "200 OK", "", json.dumps({**good, "choices": [{**good["choices"][0], **changes}]})


def _message(
    content: Any, reason: str | None = "stop", **changes: Any
) -> Callable[[dict[str, Any]], tuple[str, str, str]]:
    """A message with ``content``, in which TEXT and HALF stand for the good answer and its first words."""

    def made(good: dict[str, Any]) -> tuple[str, str, str]:
        text = good["choices"][0]["message"]["content"]
        half = " ".join(text.split()[:3])
        filled = json.loads(json.dumps(content).replace("TEXT", text).replace("HALF", half))
        return _choice(good, message={"role": "assistant", "content": filled, **changes}, finish_reason=reason)

    return made


def _waits(words: str, *headers: str, status: str = "429 Too Many Requests") -> Any:
    extra = "".join(f"{header}\r\n" for header in headers)
    return lambda good: (status, extra, json.dumps({"error": {"message": words, "code": "rate_limit_exceeded"}}))


_BROKEN: Mapping[str, Any] = {"code": 502, "message": "Upstream provider failed"}

WAITS: Mapping[str, Any] = {
    "wait-words": _waits("Rate limit reached: try again in 0.02s. Visit the page"),
    "wait-ms": _waits("slow down", "retry-after-ms: 20"),
    "wait-duration": _waits("Please try again in 20ms"),
    "wait-reset": _waits("slow down", "x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 20ms"),
    "wait-delay": _waits('[{"retryDelay": "0.02s"}]'),
    "wait-draft": _waits("slow down", 'RateLimit: "default";r=0;t=0'),
    "wait-date": _waits("slow down", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"),
    "wait-loading": _waits("loading, retry after 0.02 seconds", status="503 Loading"),
    "wait-200": lambda good: (
        "200 OK",
        "",
        json.dumps({"error": {"code": 429, "message": "try again in 0.02 seconds"}}),
    ),
}
"""Ways of being told to wait, all for 20 ms at most."""

NO_TEXTS: Mapping[str, Any] = {
    "empty": _message(""),
    "blank": _message(" \n\u200b"),
    "choice-error": lambda good: _choice(good, error=_BROKEN, finish_reason="error"),
    "reason-error": _message("HALF", "error"),
    "reason-abort": _message("HALF", "abort"),
    "reason-number": _message("HALF", 7),  # type: ignore[arg-type]
}
"""Answers without a text that another try may mend."""

FINAL: Mapping[str, Any] = {
    "empty-length": _message("", "length", reasoning_content="hm " * 20),
    "empty-parts": _message([{"type": "thinking", "thinking": "hm"}]),
    "only-thoughts": _message("<think>\nhm", "stop"),
    "tool": _message(None, "tool_calls", tool_calls=[{"id": "a"}]),
    "safety": _message("HALF", "SAFETY"),
}
"""Answers without a text that another try would bring again."""

CUT: Mapping[str, Any] = {
    reason: _message("HALF", reason) for reason in ("length", "max_tokens", "MODEL_LENGTH", "token_limit", "unheard_of")
}
"""Answers that were cut off, by their reasons."""

THOUGHTS: Mapping[str, Any] = {
    "think": _message("<think>\nhm\n</think>\n\nTEXT"),
    "think-end": _message("hm, let me see\n</think>\n\nTEXT"),
    "think-behind": _message("TEXT\n<thinking>was it good?"),
    "think-brackets": _message("[THINK]hm[/THINK]TEXT"),
    "think-channel": _message(
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>TEXT"
    ),
    "think-field": _message("TEXT", reasoning_content="hm"),
    "think-parts": _message([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "TEXT"}]),
    "eos": _message("TEXT", "eos"),
    "end-turn": _message("TEXT", "end_turn"),
    "no-reason": _message("TEXT", None),
}
"""Whole answers, with thoughts beside them or with another word for the end."""

VARIANTS: Mapping[str, Any] = {**WAITS, **NO_TEXTS, **FINAL, **CUT, **THOUGHTS}


def storm(share: float, *, seed: int = 0, faults: tuple[str, ...] = FAULTS) -> Plan:
    """Fail ``share`` of the requests in one of the ``faults`` each, at random."""
    rng = random.Random(seed)
    return lambda number, body: rng.choice(faults) if rng.random() < share else "ok"


def written(body: dict[str, Any]) -> str:
    """What the server writes: a function of the request alone."""
    asked = json.dumps([body["messages"], body.get("seed"), body.get("temperature")], sort_keys=True)
    return f"completion {hashlib.sha256(asked.encode()).hexdigest()[:12]} of many words"


@dataclass
class FaultServer:
    """``with FaultServer(plan) as server``: listens at ``server.url`` until the end of the block.

    seconds: what a good answer takes. capacity: more requests at once than that get a 429.
    write: from a request's body to the text of a good answer. delay: from it to further seconds.
    """

    plan: Plan = lambda number, body: "ok"
    seconds: float = 0.0
    capacity: int | None = None
    retry_after: str = "0.05"
    write: Callable[[dict[str, Any]], str] = written
    delay: Callable[[dict[str, Any]], float] = lambda body: 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)  # seeds of the good answers that were sent whole
    active: int = 0
    peak: int = 0
    dropped: int = 0  # connections that the client ended before its answer

    def __enter__(self) -> FaultServer:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                number = len(self.bodies)
                self.bodies.append(body)
                self.headers.append({"": head[0], **headers})
                self.active += 1
                self.peak = max(self.peak, self.active)
                try:
                    if not await self._behave(self.plan(number, body), body, reader, writer):
                        return
                finally:
                    self.active -= 1
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _behave(
        self, what: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer; False ends the connection."""
        if self.capacity is not None and self.active > self.capacity:
            what = "429"
        if what in ("reset", "close"):
            if what == "reset":  # a TCP reset instead of an orderly end
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if what in ("stall", "drip"):
            if what == "drip":  # alive, and yet nothing comes: each byte resets a read timeout
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(3000):
                if what == "drip":
                    writer.write(b" ")
                    await writer.drain()
                if reader.at_eof():
                    break
                await asyncio.sleep(0.02)
            self.dropped += 1
            return False
        if what == "ok" and (seconds := self.seconds + self.delay(body)):
            await asyncio.sleep(seconds)
        text = self.write(body)
        good = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5},
        }
        content = json.dumps(good)
        status, extra = "200 OK", ""
        if what in VARIANTS:
            status, extra, content = VARIANTS[what](good)
            what = "variant"
        if what.isdigit():
            status, content = f"{what} Whatever", json.dumps({"error": {"message": f"fault {what}", "code": what}})
            if what in ("429", "503"):
                extra = f"Retry-After: {self.retry_after}\r\n"
        elif what == "half":
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n{content[:30]}".encode())
            await writer.drain()
            return False
        elif what == "auth":
            status = "401 Unauthorized"
            content = json.dumps({"error": {"message": f"wrong key {self.headers[-1].get('authorization')}"}})
        elif what not in ("ok", "variant"):
            content = {
                "garbage": content[:40],
                "empty-choices": json.dumps({"choices": []}),
                "no-choices": json.dumps({"id": 3}),
                "null-content": json.dumps({"choices": [{"message": {"content": None}}]}),
                "number-content": json.dumps({"choices": [{"message": {"content": 17}}]}),
                "list": json.dumps([1, 2]),
                "error-200": json.dumps({"error": {"message": "engine is dead"}}),
                "thinking": content.replace('"completion ', '"<think>\\nhm\\n</think>\\n\\ncompletion '),
                "filtered": content.replace('"stop"', '"content_filter"'),
                "thoughts": content.replace(json.dumps(text), "null").replace('"stop"', '"length"'),
                "refusal": json.dumps({"choices": [{"message": {"content": None, "refusal": "no"}}]}),
                "parts": content.replace(f'"{text}"', json.dumps([{"type": "text", "text": text}])),
            }[what]
        data = content.encode()
        writer.write(f"HTTP/1.1 {status}\r\n{extra}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        if what == "ok":
            self.answered.append(body["seed"])
        return True
