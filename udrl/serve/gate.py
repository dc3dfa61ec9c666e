"""What holds for every request before and after its own work: who may ask, its id, its log line, its count."""

from __future__ import annotations

import hmac
import json
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from udrl.serve.metrics import Metrics
from udrl.serve.options import ServeOptions, is_loopback
from udrl.serve.refusal import Refusal
from udrl.serve.shapes import as_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = ("/", "/health", "/ready")
"""Addresses that need no key: they tell nothing of students and their texts."""
FACTS = "udrl"
"""Key of a request's scope under which its work leaves what is to be logged of it."""
DEFECT = Refusal("the server failed at this request; its log says why", 500)
GONE = 499
"""The status that is logged where a client left before it was answered."""


class Gate:
    """Wraps the application. log: takes a line."""

    def __init__(self, app: App, options: ServeOptions, metrics: Metrics, paths: frozenset[str]) -> None:
        """paths: the addresses that there are; others are counted together."""
        self.app, self.options, self.metrics, self.paths = app, options, metrics, paths

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started, status, facts = time.monotonic(), 0, scope.setdefault(FACTS, {})
        name = f"req-{secrets.token_hex(8)}"

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", name.encode()), *self._allowed_origin(scope)]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        try:
            if scope["method"] == "OPTIONS" and self._allowed_origin(scope):
                await self._preflight(told)
            else:
                self._check(scope)
                await self.app(scope, receive, told)
        except Refusal as refusal:
            await send_refusal(told, refusal)
        except Exception as error:  # noqa: BLE001 - a defect, of which nothing but this request is to suffer
            facts["error"] = "".join(traceback.format_exception(error))
            if not status:
                await send_refusal(told, DEFECT)
        finally:
            status = GONE if facts.pop("gone", False) else status or GONE
            self._count(scope, status, time.monotonic() - started, facts)
            self._log(scope, name, status, time.monotonic() - started, facts)

    # -- who may ask ---------------------------------------------------------------------------------------------------

    def _check(self, scope: Message) -> None:
        """Raise Refusal for whoever may not ask."""
        headers = dict(scope["headers"])
        if self.options.key is not None:
            if scope["path"] not in OPEN:
                _check_key(headers.get(b"authorization", b""), self.options.key)
            return
        host = urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}")
        if self.options.is_local and not is_loopback(_hostname(host.netloc)):
            # a page of somebody else's whose name leads here (DNS rebinding)
            raise Refusal("this server answers to localhost only", 403, code="wrong_host")
        origin = headers.get(b"origin")
        if (
            origin is not None
            and not self._allowed_origin(scope)
            and urlsplit(origin.decode("latin-1")).netloc != host.netloc
        ):
            told = "pages of other origins may not ask: start the server with --allow-origin"
            raise Refusal(told, 403, code="wrong_origin")

    def _allowed_origin(self, scope: Message) -> list[tuple[bytes, bytes]]:
        """Return the headers that let a browser's page of another origin read the answer, if it may."""
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        if not origin or origin not in self.options.origins:
            return []
        return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]

    async def _preflight(self, send: Send) -> None:
        headers = [(b"access-control-allow-headers", b"*, authorization"), (b"access-control-max-age", b"600")]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    # -- what is kept of it --------------------------------------------------------------------------------------------

    def _count(self, scope: Message, status: int, seconds: float, facts: dict[str, Any]) -> None:
        path = scope["path"] if scope["path"] in self.paths else "other"
        student = facts.get("student", "")
        self.metrics.requests.labels(path, student, str(status)).inc()
        if student:
            self.metrics.seconds.labels(path, student).observe(seconds)

    def _log(self, scope: Message, name: str, status: int, seconds: float, facts: dict[str, Any]) -> None:
        """Write one line of JSON; of probes only where they fail."""
        if status == 200 and scope["path"] in (*OPEN, "/metrics"):
            return
        log(
            "error" if status >= 500 else "info",
            "request",
            id=name,
            client=(scope.get("client") or [""])[0],
            method=scope["method"],
            path=scope["path"][:200],
            status=status,
            seconds=round(seconds, 4),
            **facts,
        )


def log(level: str, event: str, **facts: Any) -> None:
    """Write one line of JSON to standard error."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event, **facts}
    sys.stderr.write(json.dumps(line, default=str) + "\n")
    sys.stderr.flush()


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """Send an error in OpenAI's shape."""
    body = as_json(refusal.body)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    encoded = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _check_key(authorization: bytes, key: str) -> None:
    kind, _, sent = authorization.partition(b" ")
    if kind.lower() == b"bearer" and hmac.compare_digest(sent.strip(), key.encode()):
        return
    told = "this server needs a key" if not authorization else "the key is wrong"
    raise Refusal(
        f"{told}: send the header Authorization: Bearer KEY",
        401,
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def _hostname(netloc: str) -> str:
    """Return the host of ``netloc`` without its port."""
    if netloc.startswith("["):
        return netloc.partition("]")[0].removeprefix("[")
    return netloc.partition(":")[0]
