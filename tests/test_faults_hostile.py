"""The long trial of hostile texts, in small: what it asks of texts and pages, and that it would see a fault."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from tiny_answering import tiny_student

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from faults.hostile import _encoded, _halves, escaped
from faults.hostile_texts import ATTRIBUTE, MARKUP, TAG, hostile_texts

from udrl.commands import CommandSpace


def test_hostile_texts_are_text_to_the_tokenizer() -> None:
    texts = hostile_texts(400, 1)
    assert len(set(texts)) == 400
    assert sum("<|endoftext|>" in text for text in texts) > 10
    assert not any(_encoded(tiny_student(), texts).values())


def test_half_characters_are_refused_one_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny_student()
    monkeypatch.setattr(CommandSpace, "task_id", lambda *_: 0)  # the text is looked at first
    assert _halves(student, hostile_texts(20, 1, halves=True)) == Counter()


@pytest.mark.parametrize(
    ("page", "count"),
    [
        (f"<p>&lt;{TAG}&gt;</p>", 0),
        (f'<p title="&quot; {ATTRIBUTE}=&quot;1">x</p>', 0),
        (f"<script>var a = '<\\/script><{TAG}>'</script>", 0),
        (f"<script>var a = '</script><{TAG}>'</script>", 1),
        (f'<p title="" {ATTRIBUTE}="1">x</p>', 1),
        (f"<p><{TAG} {ATTRIBUTE}=1></p></{TAG}>", 2),
    ],
)
def test_a_parser_sees_markup_that_escaped(page: str, count: int) -> None:
    assert escaped(page) == count
    assert sum(TAG in one or ATTRIBUTE in one for one in MARKUP) > 10
