"""How long a server asks to wait, in the headers and words of real ones."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import formatdate

import pytest

from udrl.teacher.backends.waiting import asked_wait


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ("Rate limit reached: try again in 7.66s. Visit the page", 7.66),
        ("Please try again in 1m30s.", 90),
        ("Please try again in 6m0s", 360),
        ("Please try again in 120ms", 0.12),
        ("Please retry after 20 seconds.", 20),
        ("please retry after 20", 20),
        ("Please wait 12 sec", 12),
        ("try again in a minute", 60),
        ("Limit 30 per 1 minute. Please try again in 2 minutes and 5 seconds", 125),
        ("Expected available in 20 seconds.", 20),
        ('{"details": [{"retryDelay": "36.5s"}]}', 36.5),
        ('{"error": {"retry_after_ms": 1500}}', 1.5),
        ('{"error": "loading", "estimated_time": 20.0}', 20),
        ("Too many requests", None),
        ("the limit is 30 requests per 45 s", None),
        ("try again in a few seconds", None),
    ],
)
def test_wait_is_read_from_words(body: str, seconds: float | None) -> None:
    assert asked_wait({}, body) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "36s"}, 36),
        ({"retry-after": "2", "retry-after-ms": "150"}, 0.15),
        ({"retry-after": "-5"}, 0),
        ({"x-ratelimit-reset": "12"}, 12),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 1),
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-requests": "5",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "0",
            },
            360,
        ),
        ({"ratelimit": '"default";r=0;t=30'}, 30),
        ({"ratelimit": "limit=100, remaining=0, reset=50"}, 50),
        *(({"retry-after": text}, None) for text in ("soon", "nan", "inf", "")),
    ],
)
def test_wait_is_read_from_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, "") == (None if seconds is None else pytest.approx(seconds))


def test_wait_is_read_from_points_of_time() -> None:
    moment = datetime.now(UTC) + timedelta(hours=1)
    found = [
        asked_wait({"retry-after": formatdate(moment.timestamp(), usegmt=True)}, ""),
        asked_wait({"anthropic-ratelimit-tokens-reset": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}, ""),
        asked_wait({"x-ratelimit-reset": str(int(moment.timestamp()))}, ""),
        asked_wait({"x-ratelimit-reset": str(int(1000 * moment.timestamp()))}, ""),
        asked_wait({}, f"try again at {moment.isoformat()}"),
    ]
    assert [round((seconds or 0) / 600) for seconds in found] == [6] * 5


def test_wait_is_looked_for_in_time_in_proportion_to_the_body() -> None:
    started = time.process_time()
    for unit in ("try again in ", "1m", "retry_after ", "a ", "1 s, "):
        asked_wait({}, "try again in " + unit * 20_000)
    assert time.process_time() - started < 5
