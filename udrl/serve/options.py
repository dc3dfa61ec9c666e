"""What a server is told when it starts."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from udrl.arguments import check_fields
from udrl.errors import UsageError

MOST_COMPLETIONS = 128
"""Most completions that one request may ask for, candidates included."""
MOST_BYTES = 1 << 20
"""Most bytes of a request's body."""
READING = 20.0
"""Seconds that a client has to send a request, head and body."""


@dataclass(frozen=True)
class ServeOptions:
    """students: folders by the names that clients ask for. host, port: where to listen (port 0: a free one).

    key: what clients must send, None for none. batch_size: completions of a student that are written at once; queue:
    how many more may wait. timeout: seconds that a request may take; grace: seconds that requests under way have once
    the server is told to end. origins: web pages of these origins may ask; log_texts: inputs and completions are
    logged. engine, device, precision: as `udrl.load` takes them.
    """

    students: Mapping[str, Path]
    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)
    batch_size: int = 64
    queue: int = 256
    timeout: float = 60.0
    grace: float = 30.0
    origins: tuple[str, ...] = ()
    log_texts: bool = False
    engine: str = "auto"
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in self.students:
            if not name or any(sign in name for sign in ":/?#%") or name != name.strip():
                raise UsageError(f"'{name}' is no name for a student: leave out white space around it and : / ? # %")
        if not self.students:
            raise UsageError("there is no student to serve: name one")

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Tell whether ``host``, a name or an address, is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def chosen_key(host: str, variable: str | None, no_key: bool) -> str | None:
    """Return the key that clients must send, out of the environment ``variable``; None where none is asked for.

    Raises UsageError where ``host`` is open to others and nothing is said of keys, and where there is no key in it.
    """
    if variable is not None and no_key:
        raise UsageError("--api-key-env and --no-key exclude each other")
    if variable is None:
        if not no_key and not is_loopback(host):
            raise UsageError(
                f"others can connect to {host}: name the environment variable that holds the key which they must send "
                "(--api-key-env VAR), or let everybody in (--no-key)"
            )
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"the environment variable {variable} holds no key: set it before the server starts")
    if not key.isascii():
        raise UsageError(f"the key in {variable} holds characters beyond ASCII, which no client can send")
    return key
