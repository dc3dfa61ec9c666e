"""What a word is, in scripts that write marks beside their letters too."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from udrl.words import WORD, count_words, folded_words, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't stop the mid-century art", ["don't", "stop", "the", "mid-century", "art"]),
        ("snake_case, 3 cats - and 'quotes'", ["snake", "case", "3", "cats", "and", "quotes"]),
        ("cafe\u0301s a\u0300 la carte", ["cafe\u0301s", "a\u0300", "la", "carte"]),
        ("l\u2019e\u0301te\u0301-la\u0300", ["l\u2019e\u0301te\u0301-la\u0300"]),
        ("हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),
        ("مُحَمَّد كِتَاب", ["مُحَمَّد", "كِتَاب"]),
        ("שָׁלוֹם עוֹלָם", ["שָׁלוֹם", "עוֹלָם"]),
        ("ถ้ำ ที่", ["ถ้ำ", "ที่"]),
        ("\u0301 ❤\ufe0f ...", []),
    ],
)
def test_words_keep_their_marks(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert count_words(text) == len(expected)
    assert folded_words(text) == [word.casefold() for word in expected]


def test_composed_and_decomposed_text_has_as_many_words() -> None:
    text = "Übergrößenträger señor crème-brûlée İstanbul Việt Nam"
    counts = {count_words(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")}
    assert counts == {6}


def test_every_combining_mark_stays_inside_its_word() -> None:
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    splits = [mark for mark in marks if WORD.fullmatch(f"a{mark}b") is None]
    assert len(splits) < 0.05 * len(marks), "only those that Unicode 14 did not know"
    if unicodedata.unidata_version == "14.0.0":
        assert splits == []
    outside = [chr(code) for code in range(0x250) if not chr(code).isalnum() and chr(code) not in "'-"]
    assert all(WORD.fullmatch(f"a{other}b") is None for other in outside)
