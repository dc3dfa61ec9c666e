"""Any OpenAI-compatible endpoint as a teacher: vLLM's own server, Ollama, llama.cpp, hosted ones.

The event loop runs in a thread of its own, so that ``generate`` is an ordinary iterator, in notebooks too. Requests
are pulled, on the caller's thread, only as the server has room for them; every one ends as exactly one reply. What
one attempt came to is decided in ``openai_response``, how many run at once in ``congestion``, when the server is given
up in ``endpoint_health``.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from udrl.errors import TeacherError, UsageError
from udrl.teacher import mixes
from udrl.teacher.backends.addresses import endpoint_address, proxy_for
from udrl.teacher.backends.congestion import Congestion
from udrl.teacher.backends.endpoint_health import Ended, EndpointHealth, plus
from udrl.teacher.backends.openai_response import Answer, Problem, read_answer, read_refusal
from udrl.teacher.cards import Card, backend_settings
from udrl.teacher.protocol import Reply, Request

if TYPE_CHECKING:
    import httpx2

SETTINGS: Mapping[str, Any] = {
    "max_concurrency": 128,
    "timeout": 300.0,
    "attempts": 6,
    "max_wait": 600.0,
    "api_key_env": "OPENAI_API_KEY",
}
"""What a card may set under ``settings: openai``: most requests at once, seconds an attempt may take, how often a
request is tried, seconds that a request waits in all because the server says so (which costs no attempt), and the
environment variable that holds the key."""

MAX_ANSWER_BYTES = 8 << 20
"""A longer answer is no completion but a server gone wrong: it is not read to its end."""

_BACKOFF = 0.5
_LONGEST_BACKOFF = 30.0
_OF_A_PROXY = ("unreachable", "connection", "timeout", "http 403", "http 407", "http 502", "http 503", "http 504")
_SHORTEST_WAITS = (0.01, 0.25)  # the first one, doubled every time, and the last: for servers that say "0 seconds"


class OpenAITeacher:
    """Asks an endpoint for the model of ``card``; see ``SETTINGS``. The key comes from the environment only."""

    revision: str | None
    gpus = 0

    def __init__(self, card: Card) -> None:
        """Check the settings and the key; nothing is sent yet.

        Raises UsageError where the card has no ``base_url``, it is no address, or the key cannot be sent, TaskError for
        settings that do not exist, and as ``addresses.proxy_for`` does.
        """
        self.name = card.name
        self.model = card.model
        self.revision = card.revision
        self.engine_arguments: Mapping[str, Any] = card.output_arguments
        self.base_url = _address(card)
        self._card = card
        settings = backend_settings(card, "openai", SETTINGS)
        self._most = int(settings["max_concurrency"])
        self._timeout = float(settings["timeout"])
        self._attempts = int(settings["attempts"])
        self._max_wait = float(settings["max_wait"])
        self._proxy = proxy_for(self.base_url)
        self._key = _key(str(settings["api_key_env"]))
        self._running: set[_Worker] = set()

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the entries of the card's mix in turn."""
        return mixes.sampling(self._card.mix, index, min_words, max_words)

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the first entry of the card's mix."""
        return mixes.careful(self._card.mix, max_words)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for every request, as they finish.

        Failures are replies, of the kinds that ``openai_response.Problem`` lists; one that may be the server's own
        is held back until the server shows that it is well, and then asked once more (``endpoint_health``).
        Raises TeacherError where the server cannot be reached, refuses the key, does not know the model, has answered
        nothing for ``HOPELESS`` requests in a row, or is not well at the end: what was in flight or held back
        then is asked for again by the next start. Closing the iterator ends what is in flight at once.
        """
        congestion = Congestion(most=self._most, longest=self._max_wait)
        worker = _Worker(self, congestion)
        self._running.add(worker)
        health = EndpointHealth(self.base_url)
        with closing(worker):
            try:
                todo = iter(requests)
                waiting, more = 0, True
                while more or waiting or health.is_open:
                    asked = health.again()
                    room = congestion.wanted - waiting - len(asked)
                    if more and room > 0:
                        new = list(islice(todo, room))
                        more = len(new) == room
                        asked += new
                    if health.is_open and not (more or waiting or asked):
                        asked.append(health.probe())
                    worker.ask(asked)
                    waiting += len(asked)
                    for ended in worker.take() if waiting else ():
                        waiting -= 1
                        yield from health.passed(ended)
                    health.check()
            finally:
                self._running.discard(worker)

    def close(self) -> None:
        """End what is in flight."""
        for worker in list(self._running):
            worker.close()

    def body(self, request: Request) -> dict[str, Any]:
        """Return what is sent for ``request``."""
        chat = self._card.chat
        messages = [dict(message) for message in request.messages]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": mixes.merged_system(messages) if chat.merge_system else messages,
            "seed": request.seed,
        }
        for name, value in request.sampling.items():
            if name in mixes.RANGES or name == "max_tokens":
                body[name] = value
        if chat.stop:
            body["stop"] = list(chat.stop)
        if chat.template_arguments:
            body["chat_template_kwargs"] = dict(chat.template_arguments)
        return body

    async def answer(self, client: httpx2.AsyncClient, request: Request, congestion: Congestion) -> Ended:
        """Try ``request`` until it is answered, refused, has been tried often enough, or has waited long enough."""
        started, attempt, told, waited = time.time(), 0, 0, 0.0
        usage: tuple[int | None, int | None] = (None, None)
        clock = time.monotonic()
        rng = random.Random()  # jitter only: what is written does not depend on it
        body = json.dumps(self.body(request)).encode()  # all ASCII: lone surrogates have no other form
        while True:
            attempt += 1
            async with congestion.admitted() as round_:
                outcome = await self._attempt(client, body)
                congestion.learn(round_, outcome)
            usage = plus(usage[0], outcome.prompt_tokens), plus(usage[1], outcome.completion_tokens)
            if isinstance(outcome, Answer):
                return Ended(request, _reply(request, started, clock, attempt, outcome, usage))
            wait = rng.uniform(0.5, 1.0) * min(_LONGEST_BACKOFF, _BACKOFF * 2.0 ** min(attempt - 1, 16))
            if outcome.told_to_wait:
                told += 1
                if outcome.wait is not None:
                    first, last = _SHORTEST_WAITS
                    wait = max(outcome.wait, min(last, first * 2.0 ** min(told - 1, 16)))
                final = waited + wait > self._max_wait
                waited += 0.0 if final else wait
            else:
                final = not outcome.passing or attempt - told >= self._attempts
            if final:
                outcome = self._told(outcome.without(self._key), wait=wait, waited=waited)
                reply = _reply(request, started, clock, attempt, outcome, usage)
                return Ended(request, reply, passing=outcome.passing)
            with congestion.resting():
                await asyncio.sleep(wait * rng.uniform(1.0, 1.1))

    def _told(self, problem: Problem, *, wait: float, waited: float) -> Problem:
        """Return the problem with what there is to say beside the server's own words: the wait, and the proxy."""
        if problem.told_to_wait:
            asks = "does not say for how long to wait" if problem.wait is None else f"asks to wait {wait:,.0f} s"
            advice = f" ({asks}; waited {waited:,.0f} s of the {self._max_wait:,.0f} s that 'max_wait' allows)"
            problem = replace(problem, advice=problem.advice + advice)
        if self._proxy is not None and problem.kind in _OF_A_PROXY:
            problem = replace(problem, detail=f"through {self._proxy}: {problem.detail}")
        return problem

    async def _attempt(self, client: httpx2.AsyncClient, body: bytes) -> Answer | Problem:
        import httpx2

        try:
            # One limit on all of it: a read timeout alone is reset by every byte that drips in.
            async with asyncio.timeout(self._timeout):
                async with client.stream("POST", "chat/completions", content=body) as response:
                    content = bytearray()
                    async for part in response.aiter_bytes():
                        content += part
                        if len(content) > MAX_ANSWER_BYTES:
                            return Problem("answer", f"longer than {MAX_ANSWER_BYTES >> 20} MiB", passing=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            return Problem("unreachable", text, passing=True, crowded=True)
        except (TimeoutError, httpx2.TimeoutException):
            return Problem("timeout", f"no answer within {self._timeout:g} s", passing=True, crowded=True)
        except (httpx2.RequestError, httpx2.StreamError, httpx2.InvalidURL, OSError, UnicodeError) as error:
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            return Problem("connection", text, passing=True, crowded=True)
        if response.status_code == 200:
            strip = self._card.chat.strip_thinking
            return read_answer(bytes(content), headers=response.headers, strip_thinking=strip)
        return read_refusal(response.status_code, response.headers, bytes(content))

    def client(self) -> httpx2.AsyncClient:
        """Return a client for this endpoint, with the key where the environment holds one.

        Raises UsageError where the certificates that the environment names cannot be read.
        """
        import httpx2

        try:
            secured = "https" in (self.base_url[:5], self._proxy.url[:5] if self._proxy else "")
            certificates = httpx2.create_ssl_context(verify=secured)
        except OSError as error:
            raise UsageError(
                f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({error}): correct it"
            ) from error

        key = self._key
        return httpx2.AsyncClient(
            base_url=self.base_url + "/",
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            trust_env=False,  # the proxy is found by proxy_for, and a .netrc is not asked for keys
            proxy=None if self._proxy is None else self._proxy.url,
            verify=certificates,
            timeout=httpx2.Timeout(self._timeout, connect=min(30.0, self._timeout), pool=None),
            # Servers drop idle connections after 5 s and more; one that is dropped at use looks like crowding.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=self._most, keepalive_expiry=4.0),
        )


class _Worker:
    """The thread with the event loop: requests go in by ``ask``, replies come out by ``take``."""

    def __init__(self, teacher: OpenAITeacher, congestion: Congestion) -> None:
        self._teacher = teacher
        self._congestion = congestion
        self._client = teacher.client()
        self._replies: queue.SimpleQueue[list[Ended | BaseException]] = queue.SimpleQueue()
        self._done: list[Ended | BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: deque[Request] = deque()
        self._closed = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="udrl-openai", daemon=True)
        self._thread.start()

    def ask(self, requests: Sequence[Request]) -> None:
        """Begin to answer ``requests``."""
        self._loop.call_soon_threadsafe(self._start, requests)

    def take(self) -> Iterator[Ended]:
        """Wait for what ends next; raises what went wrong in this package, which is no failure of a request."""
        for ended in self._replies.get():
            if isinstance(ended, BaseException):
                raise ended
            yield ended

    def close(self) -> None:
        """End everything in flight, close the connections and the thread. May be called twice."""
        if not self._closed.acquire(blocking=False):
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in self._tasks:
                task.cancel()
            left = asyncio.gather(*self._tasks, return_exceptions=True)
            self._loop.run_until_complete(left)
            self._loop.run_until_complete(self._client.aclose())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self._replies.put([TeacherError(f"teacher '{self._teacher.name}' was closed")])

    def _start(self, requests: Sequence[Request]) -> None:
        self._ready.extend(requests)
        while self._ready and len(self._tasks) < self._congestion.room:
            task = self._loop.create_task(self._work(self._ready.popleft()))
            self._tasks.add(task)  # the loop itself holds tasks only weakly
            task.add_done_callback(self._finished)

    async def _work(self, request: Request) -> None:
        """Answer ``request``, and then what is ready, as long as there is room.

        Going on at once, on the connection that has just become free, makes a request a third cheaper than another
        task does: until that one has its turn, idle connections pile up, and the pool polls all of them each time.
        """
        while True:
            self._finish(await self._teacher.answer(self._client, request, self._congestion))
            if not self._ready or len(self._tasks) > self._congestion.room:
                return
            request = self._ready.popleft()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._finish(error)

    def _finish(self, ended: Ended | BaseException) -> None:
        """Hand over what is finished; what finishes in one turn of the loop together, since each waking of the other
        thread takes the interpreter from this one."""
        if not self._done:
            self._loop.call_soon(self._hand_over)
        self._done.append(ended)

    def _hand_over(self) -> None:
        self._replies.put(self._done)
        self._done = []


def _reply(
    request: Request,
    started: float,
    clock: float,
    attempts: int,
    outcome: Answer | Problem,
    usage: tuple[int | None, int | None],
) -> Reply:
    answer = outcome if isinstance(outcome, Answer) else None
    return Reply(
        key=request.key,
        completion=None if answer is None else answer.completion,
        finish_reason=None if answer is None else answer.finish_reason,
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
        started=started,
        seconds=round(time.monotonic() - clock, 4),
        attempts=attempts,
        error=str(outcome) if answer is None else None,
    )


def _key(name: str) -> str | None:
    key = os.environ.get(name, "").strip()  # a file with Windows line ends leaves a carriage return
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(
            f"the key in the environment variable {name} cannot be sent, because it holds other than printable ASCII "
            "characters: set it again without spaces, line breaks and typographic quotation marks"
        )
    return key or None


def _address(card: Card) -> str:
    url = card.base_url
    if url is None:
        raise UsageError(f"teacher '{card.name}' needs an endpoint: name it with --base-url http://HOST:PORT/v1")
    return endpoint_address(url)
