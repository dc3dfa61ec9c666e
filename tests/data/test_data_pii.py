"""Personal data: what is found, what only looks like it, and what masking leaves."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udrl.data.pii import find, has_pii, mask

HITS = [
    ("email", "write to jane.doe+news@mail.example.co.uk.", "jane.doe+news@mail.example.co.uk"),
    ("email", "Kontakt: müller@straße.de, danke", "müller@straße.de"),
    ("phone", "call +49 30 901820 today", "+49 30 901820"),
    ("phone", "call (415) 555-2671.", "(415) 555-2671"),
    ("phone", "or 415-555-2671, any time", "415-555-2671"),
    ("phone", "0044 20 7946 0958", "0044 20 7946 0958"),
    ("iban", "pay DE89 3704 0044 0532 0130 00 now", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432", "GB82WEST12345698765432"),
    ("card", "card 4111 1111 1111 1111, cvv", "4111 1111 1111 1111"),
    ("card", "5500-0000-0000-0004", "5500-0000-0000-0004"),
    ("card", "378282246310005", "378282246310005"),
    ("ip", "from 203.0.113.7 at noon", "203.0.113.7"),
    ("ip", "at 2001:db8::8a2e:370:7334", "2001:db8::8a2e:370:7334"),
    ("credentials", "git clone https://bob:s3cret!@example.org/x.git", "bob:s3cret!"),
]
NEAR_MISSES = [
    "an oil painting @ night by @artist, 8k",
    "user@localhost and foo@bar",
    "resolution 3840x2160, 1920-1080, f/1.8, iso 100",
    "between 1914-1918 and 2001-2010",
    "a price of $1,299.99 or 10 000 000 000 people",
    "DE89 3704 0044 0532 0130 01 has a wrong check digit",
    "4111 1111 1111 1112 fails Luhn's check",
    "0000 0000 0000 0000",
    "version 1.2.3.4.5 and 300.1.2.3",
    "127.0.0.1, 0.0.0.0 and 255.255.255.255",
    "at 12:30:45 on day ::",
    "seed 1234567890123, --ar 16:9 --v 5.2",
    "https://example.org:8080/path@2x.png",
    "the ISBN 978-3-16-148410-0",
    "section (1995) 12 of 3.1415926535",
]


@pytest.mark.parametrize(("kind", "text", "what"), HITS)
def test_pii_is_found(kind: str, text: str, what: str) -> None:
    assert [(found, text[start:end]) for found, start, end in find(text)] == [(kind, what)]


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_pii_is_not_seen_where_there_is_none(text: str) -> None:
    assert list(find(text)) == []
    assert mask(text) == (text, ())


def test_pii_masking_leaves_the_rest_as_it_is() -> None:
    text = "Mail a@b.org or c@d.org, phone +1 415 555 2671; https://u:p@h.org/x stays a link."
    masked, kinds = mask(text)
    assert masked == "Mail [EMAIL] or [EMAIL], phone [PHONE]; https://[CREDENTIALS]@h.org/x stays a link."
    assert kinds == ("email", "phone", "credentials")


@given(st.text(alphabet="ab1234567890@.:/+-() \n", max_size=80))
def test_pii_is_gone_after_masking(text: str) -> None:
    masked, kinds = mask(text)
    assert bool(kinds) == has_pii(text)
    assert mask(masked)[0].count("[") >= masked.count("[")  # a mask is never masked again


def test_pii_patterns_stay_linear() -> None:
    for text in ("a." * 20_000 + "@", "1-" * 20_000, "+1" + " 1" * 20_000, "://" + "a:" * 20_000, "a1:" * 20_000):
        started = time.process_time()
        list(find(text))
        assert time.process_time() - started < 5
