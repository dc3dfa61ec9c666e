"""Lists of new inputs in the forms that models give them."""

import json
from collections import Counter

import pytest

from udrl.teacher.synthesis.invention import read_answer

TWO = ["a red fox", "an old dog"]


def read(answer: str) -> tuple[list[str], Counter[str]]:
    dropped: Counter[str] = Counter()
    return list(read_answer(answer, unfinished=False, words=(2, 12), dropped=dropped)), dropped


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps({"inputs": TWO}),
        json.dumps({"task": "two new inputs", "inputs": TWO}, indent=2),
        json.dumps({"data": {"queries": TWO}}),
        json.dumps({"1": TWO[0], "2": TWO[1]}),
        json.dumps([{"id": n, "input": text} for n, text in enumerate(TWO)]),
        "Here you are:\n```json\n" + json.dumps(TWO, indent=1) + "\n```\nI hope this helps!",
        "\n".join(json.dumps({"text": text}) for text in TWO),
        '{"inputs": [\n"a red fox",\n"an old dog",\n',
        "1. a red fox 2. an old dog",
        "- input: a red fox\n- input: an old dog",
        "<inputs>\n<item>a red fox</item>\n<item>an old dog</item>\n</inputs>",
        "<think>\n1. no fox here\n</think>\n1. a red fox\n2. an old dog",
        "the user wants foxes\n- a bad fox\n</think>\n- a red fox\n- an old dog",
    ],
)
def test_lists_are_read_in_every_form(answer: str) -> None:
    assert read(answer)[0] == TWO


@pytest.mark.parametrize(
    "answer",
    [
        '{"inputs": ["a red fox", "an old',
        "{'inputs': ['a red fox', 'an old dog']}",
        'inputs = ["a red fox", "an old dog"]',
        '"inputs": "a red fox and an old dog"',
        "<inputs><input>a red fox</input><input>an old dog</input></inputs>",
        "| 1 | a red fox |",
        json.dumps('{"a": "red fox"}'),
        json.dumps([1, None]),
    ],
)
def test_structure_that_cannot_be_read_is_no_input(answer: str) -> None:
    found, dropped = read(answer)
    assert found == []
    assert dropped["structured"] >= 1


def test_brackets_and_numbers_in_words_are_no_structure() -> None:
    lines = ["[3] cats on a roof", "[Scene] a cat on a roof", "the 3. place of 4. men"]
    assert read("\n".join(lines))[0] == lines
