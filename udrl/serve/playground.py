"""The page at ``/``, to play with students in a browser: everything that it shows it asks the API for."""

from __future__ import annotations

import functools

STYLES = ("page.css", "playground.css")
SCRIPTS = ("playground.js", "playground_answers.js")


@functools.cache
def playground(*, needs_key: bool) -> tuple[bytes, dict[str, str]]:
    """Return the page and the headers that it is sent with. needs_key: it asks for the key before it asks the API.

    The headers let a browser run the page's own style and scripts only, and ask nobody but this server.
    """
    from udrl.eval.pages.environment import digest, page_of

    def hashes(names: tuple[str, ...]) -> str:
        return " ".join(f"'sha256-{digest(name)}'" for name in names)

    policy = {
        "default-src": "'none'",
        "script-src": hashes(SCRIPTS),
        "style-src": hashes(STYLES),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return page_of("playground.html", needs_key=needs_key).encode(), headers
