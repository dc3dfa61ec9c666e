"""Which address does what."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from udrl.errors import UdrlError
from udrl.serve.batching import Failed
from udrl.serve.fields import Endpoint, read_ask, read_json, unknown_model
from udrl.serve.gate import DEFECT, FACTS, App, Gate, Message, Receive, Send, send_refusal
from udrl.serve.metrics import Metrics
from udrl.serve.options import MOST_BYTES, READING, ServeOptions
from udrl.serve.plan import Plan, make_plan
from udrl.serve.playground import playground
from udrl.serve.refusal import Refusal
from udrl.serve.served import Served
from udrl.serve.shapes import DONE, Shapes, as_json, event
from udrl.serve.writing import Done, Writing, without_repetitions

if TYPE_CHECKING:
    from starlette.requests import Request

STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
DRAINED = 64 << 20
"""Bytes of a body that is too large which are still read, so that its sender gets to read the answer."""


class Api:
    """The handlers. is_ending: the server is told to end, and takes nothing new."""

    def __init__(self, students: Mapping[str, Served], options: ServeOptions) -> None:
        """students: by the names that clients ask for."""
        self.students, self.options = students, options
        self.metrics = Metrics(list(students.values()))
        self.scoring = ThreadPoolExecutor(1, thread_name_prefix="udrl-scorer")
        self.is_ending = False

    def app(self) -> App:
        """Return the whole application."""
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        routes = [
            Route("/", self.page),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.model),
            Route("/v1/models/{name}/reachable", self.reachable),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics_page),
        ]
        paths = frozenset(route.path for route in routes)
        handlers: Any = {HTTPException: _not_found, Refusal: _refused, Exception: _failed}
        return Gate(Starlette(routes=routes, exception_handlers=handlers), self.options, self.metrics, paths)

    # -- about the server ----------------------------------------------------------------------------------------------

    async def page(self, _: Request) -> App:
        """Give the playground."""
        page, headers = await asyncio.to_thread(playground, needs_key=self.options.key is not None)
        return _body(page, "text/html; charset=utf-8", headers)

    async def health(self, _: Request) -> App:
        """Say that the process answers, and that every student's thread lives."""
        dead = [one.name for one in self.students.values() if not one.worker.is_alive]
        if dead:
            raise Refusal(f"the threads of {', '.join(dead)} have ended: start the server again", 500)
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> App:
        """Say whether requests are taken."""
        if self.is_ending:
            raise Refusal("the server is ending", 503, code="ending")
        await self.health(request)
        return _json({"status": "ready", "students": list(self.students)})

    async def metrics_page(self, _: Request) -> App:
        """Give Prometheus what it reads."""
        return _body(self.metrics.page(), "text/plain; version=0.0.4; charset=utf-8")

    async def models(self, _: Request) -> App:
        """List the students."""
        return _json({"object": "list", "data": [one.card for one in self.students.values()]})

    async def model(self, request: Request) -> App:
        """Tell of one student."""
        return _json(self._served(request.path_params["name"]).card)

    async def reachable(self, request: Request) -> App:
        """Tell what a student reaches in a task, at a length if one is given: ``?task=T&length=20``."""
        served, query = self._served(request.path_params["name"]), request.query_params
        task = query.get("task", served.student.tasks[0])
        try:
            length = float(query["length"]) if query.get("length", "") else None
            return _json(served.reachable_at(task, length))
        except (UdrlError, ValueError) as error:
            raise Refusal(str(error), param="length" if task in served.student.tasks else "task") from None

    def _served(self, name: str) -> Served:
        name = name.partition(":")[0]
        if name not in self.students:
            raise unknown_model(name, list(self.students))
        return self.students[name]

    # -- writing -------------------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> App:
        """Answer ``/v1/chat/completions``."""
        return await self._write(request, "chat")

    async def completions(self, request: Request) -> App:
        """Answer ``/v1/completions``."""
        return await self._write(request, "completions")

    async def _write(self, request: Request, endpoint: Endpoint) -> App:
        facts, ends = request.scope[FACTS], time.monotonic() + self.options.timeout
        if self.is_ending:
            raise Refusal("the server is ending: ask another one", 503, code="ending", headers={"retry-after": "5"})
        ask = read_ask(read_json(await _read_body(request)), endpoint, list(self.students))
        served = self.students[ask.student]
        facts |= {"student": ask.student, "stream": ask.stream}
        plan = make_plan(ask, served)
        facts |= {"task": plan.slots[0].command.task, "command": dict(plan.slots[0].command.targets)}
        for slot in plan.slots[:1]:
            for name in slot.clamped:
                self.metrics.clamped.labels(ask.student, name).inc()
        if self.options.log_texts:
            facts["inputs"] = list(ask.inputs)
        writing = Writing(plan, self.scoring)
        work = self._stream if ask.stream else self._whole
        return _while_connected(lambda send: work(send, writing, facts, ends))

    async def _whole(self, send: Send, writing: Writing, facts: Message, ends: float) -> None:
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                done = await writing.answers()
        except TimeoutError:
            raise self._too_long() from None
        except Failed as error:
            raise Refusal(str(error), 500, code="engine_failed") from None
        if writing.plan.ask.ladder:
            done = without_repetitions(done)
        self._note(writing.plan, done, facts)
        async with asyncio.timeout(READING):
            await _send(send, as_json(Shapes(writing.plan).whole(done)), "application/json")

    async def _stream(self, send: Send, writing: Writing, facts: Message, ends: float) -> None:
        """Send events; what goes wrong behind the first is an event, too."""
        started = time.monotonic()
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
        done: list[Done] = []
        try:
            async with (
                asyncio.timeout(ends - time.monotonic()),
                contextlib.aclosing(self._chunks(writing, done)) as chunks,
            ):
                async for chunk in chunks:
                    if "first" not in facts:
                        facts["first"] = round(time.monotonic() - started, 4)
                        self.metrics.first.labels(writing.plan.ask.student).observe(facts["first"])
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            last = DONE
        except (TimeoutError, UdrlError) as error:
            refusal = error if isinstance(error, Refusal) else Refusal(str(error), 500, code="engine_failed")
            refusal = self._too_long() if isinstance(error, TimeoutError) else refusal
            facts["failed"] = str(refusal)
            last = event(refusal.body)
        self._note(writing.plan, done, facts)
        async with asyncio.timeout(READING):
            await send({"type": "http.response.body", "body": last})

    async def _chunks(self, writing: Writing, done: list[Done]) -> AsyncGenerator[bytes]:
        """Yield the events of a stream but the last; ``done`` receives the choices that have ended."""
        shapes = Shapes(writing.plan)
        if begun := b"".join(shapes.begun(choice) for choice in range(len(writing.plan.slots))):
            yield begun
        async with contextlib.aclosing(writing.events()) as events:
            async for one in events:
                if isinstance(one, Done):
                    done.append(one)
                    yield shapes.ended(one)
                else:
                    yield shapes.part(one.choice, one.text)
        if writing.plan.ask.include_usage:
            yield shapes.used(done)

    def _too_long(self) -> Refusal:
        told = f"this took longer than the {self.options.timeout:g} seconds that a request may take"
        return Refusal(told, 504, code="timeout", headers={"x-should-retry": "false"})

    def _note(self, plan: Plan, done: list[Done], facts: Message) -> None:
        """Leave in ``facts`` what is logged of the answer, and count it."""
        written = sum(one.tokens for one in done)
        self.metrics.read.labels(plan.ask.student).inc(plan.prompt_tokens)
        self.metrics.written.labels(plan.ask.student).inc(written)
        facts.update(choices=len(done), prompt_tokens=plan.prompt_tokens, completion_tokens=written)
        if self.options.log_texts:
            facts["completions"] = [one.answer.completion for one in done]


async def _not_found(request: Request, error: Exception) -> App:
    """Tell of an address, or a method of it, that there is not."""
    told = f"there is no {request.method} {request.url.path[:100]}"
    headers = dict(getattr(error, "headers", None) or {})
    return _refusal(Refusal(told, int(getattr(error, "status_code", 404)), headers=headers))


async def _refused(_: Request, error: Exception) -> App:
    assert isinstance(error, Refusal)
    return _refusal(error)


async def _failed(_: Request, __: Exception) -> App:
    return _refusal(DEFECT)


async def _read_body(request: Request) -> bytes:
    """Return the body; raises Refusal where it is too large, compressed, or does not come."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal("a compressed body is not taken", 415)
    parts, size = [], 0
    try:
        async with asyncio.timeout(READING):
            async for part in request.stream():
                size += len(part)
                if size <= MOST_BYTES:
                    parts.append(part)
                elif size > DRAINED:
                    break
    except TimeoutError:
        raise Refusal(
            f"the body did not come within {READING:g} seconds", 408, headers={"connection": "close"}
        ) from None
    if size > MOST_BYTES:
        told = f"the body is larger than the {MOST_BYTES:,} bytes that are taken"
        raise Refusal(told, 413, code="request_too_large", headers={"connection": "close"})
    return b"".join(parts)


def _while_connected(work: Callable[[Send], Coroutine[Any, Any, None]]) -> App:
    """Return an answer that ``work`` sends; it is cancelled where the client leaves before it has all."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        task = asyncio.create_task(work(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                scope[FACTS]["gone"] = True
                return
            await task
        except Refusal as refusal:
            await send_refusal(send, refusal)
        except TimeoutError:  # it does not read what it asked for
            scope[FACTS]["gone"] = True
        finally:
            for one in (task, gone):
                one.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    return answer


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]


async def _send(send: Send, body: bytes, kind: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
    encoded = _encoded({"content-type": kind, "content-length": str(len(body)), **headers})
    await send({"type": "http.response.start", "status": 200, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _body(body: bytes, kind: str, headers: Mapping[str, str] = MappingProxyType({})) -> App:
    """Return an answer of one body. headers: further ones."""

    async def answer(_: Message, __: Receive, send: Send) -> None:
        await _send(send, body, kind, headers)

    return answer


def _refusal(refusal: Refusal) -> App:
    """Return an answer that says why there is none."""

    async def answer(_: Message, __: Receive, send: Send) -> None:
        await send_refusal(send, refusal)

    return answer


def _json(data: Any) -> App:
    return _body(as_json(data), "application/json")
