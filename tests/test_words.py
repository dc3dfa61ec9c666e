"""What a word is, in scripts that write marks beside their letters too."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from udrl.data.constraints import sentences
from udrl.words import WORD, count_words, folded_words, join_words, words


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
        ("iPhone手机卖3只,12元。", ["iPhone", "手", "机", "卖", "3", "只", "12", "元"]),
        ("コーヒーです", ["コ", "ー", "ヒ", "ー", "で", "す"]),
        ("แมวใต้ต้นไม้ ๑๒ ตัว", ["แม", "ว", "ใต้", "ต้", "น", "ไม้", "๑๒", "ตั", "ว"]),
        ("ພາສາລາວ", ["ພາ", "ສາ", "ລາ", "ວ"]),
        ("ភាសាខ្មែរ", ["ភា", "សា", "ខ្មែ", "រ"]),
        ("မြန်မာစကား", ["မြန်", "မာ", "စ", "ကား"]),
        ("𠀀𠀁 葛\U000e0100", ["𠀀", "𠀁", "葛\U000e0100"]),
        ("한국어 문장입니다", ["한국어", "문장입니다"]),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs 3.50. Really? Yes!", 3),
        ("火车穿过高山。大海平静！真的吗？好", 4),
        ("هل هذا صحيح؟ نعم.", 2),
        ("यह सही है। हाँ।", 2),
        ("e.g.this v1.2", 1),
    ],
)
def test_words_sentences_end_in_every_script(text: str, expected: int) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize("text", ["a red fox", "狐狸在雪中", "ใต้ต้นไม้", "iPhone 手机 3 只", "한국어 문장"])
def test_words_join_as_they_are_written(text: str) -> None:
    assert join_words(words(text)) == text


def test_words_of_a_copied_passage_are_the_same_wherever_it_stands() -> None:
    for passage in ("狐狸在雪中", "ใต้ต้นไม้", "ភាសាខ្មែរ", "မြန်မာစကား"):
        for before in ("", "雪", "แมว", "រ", "စ", "fox "):
            assert words(before + passage)[-count_words(passage) :] == words(passage)
