"""Asks ``udrl serve``, with nothing but the standard library."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

SECONDS = 120


def rewrite(url: str, fields: dict[str, Any]) -> list[str]:
    """Return the texts that the server at ``url`` writes for ``fields``.

    Raises RuntimeError that says what to do where it is not there, and what it says where it refuses. A key is taken
    from the environment variable UDRL_API_KEY: one in the node would be saved with every workflow.
    """
    headers = {"content-type": "application/json"}
    if key := os.environ.get("UDRL_API_KEY"):
        headers["authorization"] = f"Bearer {key}"
    address = f"{url.rstrip('/')}/v1/completions"
    if not address.startswith(("http://", "https://")):
        raise RuntimeError(f"'{url}' is no address of a server: it begins with http://, such as http://127.0.0.1:8000")
    request = urllib.request.Request(address, json.dumps(fields).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            answer = json.load(response)
        return [choice["text"] for choice in answer["choices"]]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"udrl serve at {url}: {_message(error)}") from None
    except (ValueError, LookupError, TypeError):
        raise RuntimeError(f"what answers at {url} is not udrl serve: check the node's server") from None
    except OSError as error:
        why = getattr(error, "reason", error)
        raise RuntimeError(
            f"there is no udrl serve at {url} ({why}): start it with udrl serve --run FOLDER, or correct the node's "
            "server"
        ) from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (OSError, ValueError, LookupError, TypeError):
        return f"it answers with {error.code} {error.reason}"
