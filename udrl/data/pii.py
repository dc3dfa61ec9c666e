"""Personal data in texts: found, and masked, by patterns with checks of their own digits.

What is found: e-mail addresses, phone numbers, bank accounts (IBAN, its check digits right), payment cards (Luhn's
check right), IP addresses, and credentials inside URLs. Names and postal addresses are not: no pattern tells them from
the people and places that inputs are about. docs/data.md says how often each pattern is wrong on real texts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Literal

PiiMode = Literal["off", "mask", "reject"]
MODES: tuple[PiiMode, ...] = ("off", "mask", "reject")

RULE = "pii"
"""What stands in ``rejected_by``."""

MASKED = "masked"
"""Key of an episode's sampling that names the kinds that were masked in it."""

_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26,
    "UA": 29, "XK": 20,
}  # fmt: skip


def find(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, first character, end) of what is found in ``text``, in order and without overlap.

    Of two that overlap the earlier kind counts: credentials, email, iban, card, ip, phone.
    """
    taken: list[tuple[str, int, int]] = []
    claimed = bytearray(len(text))
    if "@" not in text and not any(character.isdigit() for character in text):
        return
    for kind, pattern, holds in _KINDS:
        for match in pattern.finditer(text):
            start, end = match.span()
            if not any(claimed[start:end]) and holds(match[0]):
                claimed[start:end] = b"\1" * (end - start)
                taken.append((kind, start, end))
    yield from sorted(taken, key=lambda entry: entry[1])


def mask(text: str) -> tuple[str, tuple[str, ...]]:
    """Return ``text`` with each find replaced by its kind, such as ``[EMAIL]``, and the kinds found."""
    parts: list[str] = []
    kinds: list[str] = []
    done = 0
    for kind, start, end in find(text):
        parts += [text[done:start], f"[{kind.upper()}]"]
        kinds.append(kind)
        done = end
    return "".join([*parts, text[done:]]), tuple(dict.fromkeys(kinds))


def has_pii(text: str) -> bool:
    """Tell whether anything is found in ``text``."""
    return next(find(text), None) is not None


def _luhn(digits: str) -> bool:
    """Tell whether the last digit is Luhn's check of the others (ISO/IEC 7812-1)."""
    doubled = (divmod(2 * int(digit), 10) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(tens + ones for tens, ones in doubled)) % 10 == 0


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and _luhn(digits)


def _is_iban(text: str) -> bool:
    """Tell whether the length is the country's and the number is 1 modulo 97 (ISO 13616)."""
    plain = text.replace(" ", "").upper()
    if len(plain) != _IBAN_LENGTHS.get(plain[:2]):
        return False
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def _is_address(text: str) -> bool:
    """Tell whether it is an address that can belong to somebody: not unspecified, loopback or a netmask."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or address.is_reserved)


def _is_phone(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


def _always(_: str) -> bool:
    return True


_EDGE, _AFTER = r"(?<![\w.+\-/#$€£])", r"(?![\w\-/%]|[.,:]\d)"

# The kinds in the order in which they claim characters. A phone number needs its country's code, or an area code in
# brackets, or the North American grouping: any weaker pattern finds years, resolutions and prices.
_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("credentials", re.compile(r"(?<=://)[^\s/:@\"'<>]{1,100}:[^\s/@\"'<>]{1,200}(?=@[\w.\-])"), _always),
    (
        "email",
        re.compile(
            r"(?<![\w.%+\-/])[\w%+\-]+(?:\.[\w%+\-]+)*@(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?![\w\-]|\.\w)"
        ),
        _always,
    ),
    (
        "iban",
        re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[A-Z0-9]{11,27}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?!\w)"),
        _is_iban,
    ),
    (
        "card",
        re.compile(_EDGE + r"[2-6]\d{3}(?:\d{9,15}|([ \-])\d{4}\1\d{4}\1\d{1,7}|([ \-])\d{6}\2\d{5})" + _AFTER),
        _is_card,
    ),
    ("ip", re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)"), _is_address),
    ("ip", re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])"), _is_address),
    (
        "phone",
        re.compile(
            _EDGE + r"(?:(?:\+|(?<!\d )00)[1-9]\d{0,2}(?:[ .\-]?\(?\d{1,5}\)?){2,6}"
            r"|\(0?\d{2,4}\)[ .\-]?\d{3,4}[ .\-]?\d{3,5}"
            r"|(?:1[ .\-])?[2-9]\d{2}([.\-])[2-9]\d{2}\1\d{4})" + _AFTER
        ),
        _is_phone,
    ),
)
