"""A server in a thread of the test's process, with the tiny student; and clients that do what no client should."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from udrl.serve.app import Api
from udrl.serve.options import ServeOptions
from udrl.serve.served import start_served
from udrl.serve.server import listening, uvicorn_server
from udrl.student.student import Student


@dataclass
class Server:
    """A server that runs. url: with no path; logged: the lines that it wrote so far."""

    url: str
    port: int
    api: Api
    client: httpx2.Client

    def post(self, path: str = "/v1/completions", **body: Any) -> httpx2.Response:
        """Ask with a JSON body."""
        return self.client.post(path, json=body)

    def send(self, data: bytes) -> socket.socket:
        """Open a connection and send bytes, which need not be a request."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(data)
        return connection

    def request(self, body: bytes, path: str = "/v1/completions", **headers: str) -> httpx2.Response:
        """Ask with the bytes of a body."""
        return self.client.post(path, content=body, headers=headers)


@contextlib.contextmanager
def serving(students: dict[str, Student], folders: Path = Path("nowhere"), **options: Any) -> Iterator[Server]:
    """Serve ``students`` at a free port until the block ends."""
    settings = ServeOptions(dict.fromkeys(students, folders), port=0, **options)
    place = listening(settings.host, 0)
    started: list[Any] = []
    ready = threading.Event()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        limits = {"most": settings.batch_size, "room": settings.queue}
        served = {n: start_served(n, folders, one, loop=loop, **limits) for n, one in students.items()}
        api = Api(served, settings)
        server = uvicorn_server(api, settings)
        started[:] = [api, server]
        ready.set()
        await server.serve(sockets=[place])
        for one in served.values():
            one.worker.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    port = place.getsockname()[1]
    thread.start()
    assert ready.wait(60)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(base_url=url, timeout=60) as client:
            yield Server(url, port, started[0], client)
    finally:
        started[1].should_exit = True
        thread.join(60)
        place.close()
        assert not thread.is_alive()


def lines_of(response: str) -> list[Any]:
    """Return the data of server-sent events; the last must be the end."""
    parts = [part.removeprefix("data: ") for part in response.strip().split("\n\n")]
    assert parts[-1] == "[DONE]"
    return [json.loads(part) for part in parts[:-1]]
