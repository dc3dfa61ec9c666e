"""Starting a server: students, socket, signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import udrl.student.student as students
from udrl.errors import MissingDependency, RunError, is_installed
from udrl.serve.app import Api
from udrl.serve.options import READING, ServeOptions
from udrl.serve.served import Served, start_served

if TYPE_CHECKING:
    import uvicorn

PACKAGES = ("starlette", "uvicorn", "prometheus_client")
CONNECTIONS = 1024
"""Most connections at once."""


def serve(options: ServeOptions, started: Callable[[str], object] = print) -> None:
    """Serve students until SIGTERM or SIGINT, then finish what is under way. started: called with the address.

    Raises MissingDependency without the extra ``serve``, RunError for an address that cannot be listened at, and what
    `load_student` raises.
    """
    if missing := [name for name in PACKAGES if not is_installed(name)]:
        raise MissingDependency(f"udrl serve needs {', '.join(missing)}: pip install 'udrl[serve]'")
    loaded = load_students(options)
    with contextlib.closing(listening(options.host, options.port)) as listener:
        asyncio.run(_serve(options, loaded, listener, started))


def load_students(options: ServeOptions) -> dict[str, students.Student]:
    """Return the students of ``options`` by name; raises what `load_student` raises."""
    return {
        name: students.load_student(folder, engine=options.engine, device=options.device, precision=options.precision)
        for name, folder in options.students.items()
    }


def start_students(options: ServeOptions, loaded: dict[str, students.Student]) -> dict[str, Served]:
    """Return ``loaded`` with a thread each that writes for it; called in the event loop that is told of it."""
    loop = asyncio.get_running_loop()
    return {
        name: start_served(
            name, options.students[name], student, most=options.batch_size, room=options.queue, loop=loop
        )
        for name, student in loaded.items()
    }


async def _serve(
    options: ServeOptions,
    loaded: dict[str, students.Student],
    listener: socket.socket,
    started: Callable[[str], object],
) -> None:
    served = start_students(options, loaded)
    api = Api(served, options)
    for one in served.values():
        await one.warm()
    server = uvicorn_server(api, options)
    port = listener.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    started(f"http://{host}:{port}")
    await server.serve(sockets=[listener])
    for one in served.values():
        one.worker.close()
    api.scoring.shutdown(wait=False, cancel_futures=True)


def uvicorn_server(api: Api, options: ServeOptions) -> uvicorn.Server:
    """Return a server that ends with what is under way, and closes connections on which no request comes."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # uvicorn's would end the process by the signal, not with 0
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for one, handler in before.items():
                    signal.signal(one, handler)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            api.is_ending = True
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        api.app(),
        http=_protocol(),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(options.grace)),
    )
    return Server(config)


def _protocol() -> Any:
    """Return uvicorn's protocol, which also ends connections whose request does not come in time."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        waits: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.waits = self.loop.call_later(READING, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            begun = self.cycle is not None and not self.cycle.response_complete
            if begun and self.waits is not None:
                self.waits.cancel()
                self.waits = None
            elif not begun and self.waits is None:  # the next request's head, as yet in parts
                self.waits = self.loop.call_later(READING, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.waits is not None:
                self.waits.cancel()
            super().connection_lost(exc)

    return Patient


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to ``host`` and ``port``; raises RunError where it cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{host} port {port} cannot be listened at ({said}): choose others (--host, --port)") from None
    return listener
