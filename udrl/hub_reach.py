"""Whether the Hugging Face hub can be reached."""

from __future__ import annotations

TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
"""Packages whose errors say that the service was not reached; which one depends on the client's version."""
SECONDS = 5.0
"""Longest wait for the hub."""


def is_of_transport(error: BaseException) -> bool:
    """Say whether ``error`` says that a service was not reached, or stopped answering."""
    return type(error).__module__.partition(".")[0] in TRANSPORTS


def is_reachable() -> bool:
    """Say whether the hub answers at all, by one request of the hub's own client, which knows of proxies.

    False also where that client is set to be offline. What the answer is does not matter.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except OfflineModeIsEnabled:
        return False
    except Exception as error:
        if is_of_transport(error):
            return False
        raise
    return True
