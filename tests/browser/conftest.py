"""A real browser for the tests of pages: Chromium, headless, driven by Playwright.

Run them with ``make test-browser``. The browser is the one that UDRL_BROWSER names, or the Chromium or Chrome on the
search path; Playwright brings only what drives it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT = 120_000
"""Milliseconds: a busy machine is no failure of a page."""

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("UDRL_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail("no browser: install Chromium (apt-get install chromium), or name one in UDRL_BROWSER")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has no sandbox
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=arguments, timeout=TIMEOUT)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open a file offline, or an address: ``open_page(path, width=1280, dark=False)``.

    The test fails where the page's console holds a word, or it asks for anything but itself or its server. fails:
    the browser's own words about requests that fail are expected.
    """
    contexts, said, asked, own = [], [], [], ["file:", "data:"]

    def opened(
        place: Path | str, *, width: int = 1280, dark: bool = False, javascript: bool = True, fails: bool = False
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
            offline=isinstance(place, Path),
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        expected = "Failed to load resource: " if fails else "\0"
        page.on("console", lambda one: one.text.startswith(expected) or said.append(one.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        if isinstance(place, str):
            own.append(place)
        page.goto(place.as_uri() if isinstance(place, Path) else place)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(tuple(own))] == []
