"""Rewards for reasoning and for constraints: what counts as a right answer, and what their figures promise."""

from __future__ import annotations

import json
import random
import string
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.data.inputs import input_id
from udrl.data.known_answers import answers_of_file, read_answers, store_answers
from udrl.errors import InputError, RewardError, RunError
from udrl.numerals import final_number
from udrl.rewards import canaries, compute, compute_known, covered, default_rewards, load_reward
from udrl.rewards.reasoning import LONGEST, Accuracy, CosineLength, Format

PROBLEM = "Ann has 3 apples. Ann finds 4 more. How many apples does Ann have now?"
QUESTION = "What is the answer?"
WORDS = st.lists(st.sampled_from("so we add then it holds because many".split()), max_size=12).map(" ".join)
NUMBERS = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=1).map(int) | st.decimals(
    min_value=-(10**6), max_value=10**6, places=2, allow_nan=False, allow_infinity=False
)
DECLARED = (
    "#### {}",
    "The answer is {}.",
    "so \\boxed{{{}}}",
    "The final answer is: **{}**",
    '"answer": "{}"\n}}',
    "= {}",
)


def accuracy(known: object) -> Accuracy:
    return Accuracy({input_id(QUESTION): str(known)})


# --- what a number is


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 + 4 = 7. #### 7", 7),
        ("in all $1,600.00 a year", 1600),
        ("#### -7", -7),
        ("16-3=13", 13),
        ("is it -$5", -5),
        ("the answer is 10/4.", Fraction(5, 2)),
        ("\\boxed{\\frac{3}{4}} of 12", Fraction(3, 4)),
        ("It is .75", Fraction(3, 4)),
        ("\\boxed{1{,}600}", 1600),
        ("12, 13", 13),
        ("Answer: **42** apples of 50", 42),
        ('{"steps": "2 * 9", "answer": "18"\n} 3', 18),
        ("The answer is 3 + 4 = 7 apples, not 8", 7),
        ("#### 7 and then #### 8", 8),
        ("The answer is 5. In 2 words: five", 5),
        ("#### none, but 9", 9),
        ("1,2,3", 3),
        ("It is 0.00001.", Fraction(1, 100_000)),
        ("1e-05", Fraction(1, 100_000)),
        ("-1.5E+3 m", -1500),
        ("\\boxed{2 \\times 10^{-5}}", Fraction(1, 50_000)),
        ("3×10⁻⁶ of it", Fraction(3, 1_000_000)),
        ("6.02 x 10^23", 602 * 10**21),
        ("about 10^{-5}", Fraction(1, 100_000)),
        ("it weighs 1e5x", 5),
        ("0,5", Fraction(1, 2)),
        ("3,14 and so on", Fraction(157, 50)),
        ("1.234,50 €", Fraction(2469, 2)),
        ("1.234.567", 1_234_567),
        ("1\u202f234\u202f567 km", 1_234_567),
        ("0,125", Fraction(1, 8)),
        ("the point (3,4)", 4),
        ("1 1/2 cups", Fraction(3, 2)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("2½", Fraction(5, 2)),
        ("\u22127", -7),
        ("\u20137 degrees", -7),
        ("pages 5\u20137", 7),
        ("٣٫٥", Fraction(7, 2)),
        ("１２", 12),
        ("答案是 7。另有 9", 9),
        ("The answer is 7。But 9", 7),
    ],
)
def test_numerals_find_the_answer(text: str, value: Fraction | int) -> None:
    found = final_number(text)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize("text", ["", "no number", "3/0", "9" * 5000, "seven"])
def test_numerals_are_not_made_up(text: str) -> None:
    assert final_number(text) is None


@given(st.text(alphabet=string.digits + "+-*/=.,$%#{}\\ \nanswer is:", max_size=80))
@settings(max_examples=300, deadline=None)
def test_numerals_read_any_text(text: str) -> None:
    found = final_number(text)
    assert found is None or (isinstance(found.value, Fraction) and any(map(str.isdigit, text)))


# --- accuracy


@given(NUMBERS, WORDS, st.sampled_from(DECLARED), st.sampled_from(("{}", "${}", "{} dollars", "{}.0")))
@settings(max_examples=300, deadline=None)
def test_accuracy_is_of_the_value_whatever_its_form(number: object, words: str, form: str, written: str) -> None:
    text = str(number)
    grouped = f"{int(text):,}" if text.lstrip("-").isdigit() else text
    if written == "{}.0" and "." in text:
        written = "{}"
    completion = f"{words} {form.format(written.format(grouped))}"
    assert accuracy(number)([QUESTION], [completion]) == [1.0]
    wrong = Fraction(text) + 1
    assert accuracy(float(wrong))([QUESTION], [completion]) == [0.0]


@given(st.text(max_size=60), st.integers(-100, 100))
@settings(max_examples=200, deadline=None)
def test_accuracy_is_one_or_nought_and_ignores_case_and_space_of_the_input(completion: str, number: int) -> None:
    reward = accuracy(number)
    values = reward([QUESTION, f"  {QUESTION.upper()} "], [completion] * 2)
    assert values[0] == values[1]
    assert values[0] in (0.0, 1.0)


def test_accuracy_of_percent_and_of_repeating_fractions() -> None:
    assert accuracy(50)([QUESTION] * 3, ["50%", "0.5", "50 %"]) == [1.0, 0.0, 1.0]
    assert accuracy("0.5")([QUESTION] * 2, ["50%", "1/2"]) == [1.0, 1.0]
    assert accuracy("1/3")([QUESTION] * 2, ["0.33333333", "0.33"]) == [1.0, 0.0]
    assert accuracy("so 9 * 2 = 18\n#### 18")([QUESTION], ["18"]) == [1.0], "answers may be worked out, as GSM8K's are"


def test_accuracy_needs_no_answers_for_generated_problems_and_is_no_nought_where_nobody_knows() -> None:
    reward = load_reward("accuracy")
    assert reward([PROBLEM, PROBLEM], ["3 + 4 = 7. #### 7", "3 + 4 = 8. #### 8"]) == [1.0, 0.0]
    assert covered(reward, [PROBLEM, QUESTION]) == [True, False]
    assert compute_known(reward, [QUESTION, PROBLEM], ["7", "7"]) == [None, 1.0]
    with pytest.raises(
        RewardError, match=r"for the input 'What is the answer\?': its right answer is not known; give a"
    ):
        compute(reward, [QUESTION], ["7"])
    assert not covered(accuracy("Paris"), [QUESTION])[0], "what is no number is not compared"
    assert accuracy(7)._answer(PROBLEM) is not None
    assert Accuracy({input_id(PROBLEM): "8"})([PROBLEM], ["8"]) == [1.0], (
        "a given answer counts more than a computed one"
    )
    assert canaries(reward, [PROBLEM]) == {"empty": 0.0, "echo": 0.0, "repetition": 0.0}


# --- format


@pytest.mark.parametrize(
    ("completion", "thirds"),
    [
        ("3 + 4 = 7. #### 7", 3),
        ("First we add them. The answer is 7 apples.", 3),
        ('{"reasoning": "3 and 4 are 7",\n "answer": "7"\n}', 3),
        ("#### 7", 2),
        ("3 + 4 = 7. #### 7. I hope that this helps you", 2),
        ("#### 7 because 3 + 4 = 7", 1),
        ("3 + 4 = 7", 0),
        ("3 + 4 = 7. #### 7 #### 7", 0),
        ("3 + 4 = 7. The answer is 7. #### 7", 0),
        ("3 + 4 = 7. ####", 0),
        ("", 0),
    ],
)
def test_format_wants_one_declaration_at_the_end_with_reasoning_before(completion: str, thirds: int) -> None:
    assert Format()([QUESTION], [completion]) == [pytest.approx(thirds / 3)]


@given(WORDS, st.integers(-999, 999), st.integers(0, 3), st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_format_never_pays_for_more_declarations(words: str, number: int, more: int, tail: str) -> None:
    reward = Format()
    [plain] = reward([QUESTION], [f"{words} #### {number}"])
    [several] = reward([QUESTION], [f"{words} #### {number}" + f" #### {number}" * more + tail])
    assert 0 <= several <= plain <= 1
    assert several in (0.0, 1 / 3, 2 / 3, 1.0)


# --- cosine of the length


@given(st.integers(1, 400), st.integers(0, 500), st.integers(0, 500), st.booleans())
@settings(deadline=None)
def test_cosine_length_is_monotone_on_each_side_clamped_and_in_range(longest: int, a: int, b: int, right: bool) -> None:
    reward = CosineLength(longest=longest)
    short, long = sorted((a, b))
    first, second = reward.value(right, short), reward.value(right, long)
    assert reward.low <= min(first, second) <= max(first, second) <= reward.high
    assert (first >= second) if right else (first <= second)
    assert reward.value(right, longest + a) == reward.value(right, longest) == pytest.approx(0.5 if right else -0.5)
    assert reward.value(True, a) >= 0.5 > -0.5 >= reward.value(False, b), "right is worth more than wrong at any length"


@given(st.lists(st.sampled_from(("a", "incomprehensibilities", "3", "x-ray")), max_size=80), st.booleans())
@settings(deadline=None)
def test_cosine_length_counts_words_and_not_characters(words: list[str], right: bool) -> None:
    reward = load_reward("cosine_length")
    answer = "#### 7" if right else "#### 8"
    completion = " ".join([*words, answer])
    [value] = reward([PROBLEM], [completion])
    assert value == CosineLength().value(right, len(words) + 1)
    [same] = reward([PROBLEM], [" ".join(["b"] * len(words) + [answer])])
    assert value == same


def test_cosine_length_takes_its_longest_length_by_name() -> None:
    assert load_reward("cosine_length").name == load_reward("cosine_length:9").name == "cosine_length"
    short, long = load_reward("cosine_length:9"), load_reward("cosine_length:900")
    text = " ".join(["so"] * 20) + " #### 7"
    assert short([PROBLEM], [text]) == [pytest.approx(0.5)]
    assert long([PROBLEM], [text])[0] > 0.99
    assert getattr(load_reward("cosine_length"), "longest") == LONGEST  # noqa: B009
    with pytest.raises(RewardError, match="at least 1 word"):
        load_reward("cosine_length:0")
    assert covered(short, [PROBLEM, QUESTION]) == [True, False]


# --- constraints


def test_constraints_reward_the_share_that_is_kept() -> None:
    reward = load_reward("constraints")
    asked = "Use the word 'brass'. Do not use commas. Write at least 5 words. Use only lowercase letters."
    request = f"Write about a lamp. {asked}"
    values = reward([request] * 3, ["a lamp made of brass", "A lamp, in brass", ""])
    assert values == [1.0, 0.25, 0.0]
    assert covered(reward, [request, QUESTION]) == [True, False]
    with pytest.raises(RewardError, match="states no constraint"):
        reward([QUESTION], ["42"])


def test_default_rewards_are_those_of_the_tasks() -> None:
    from udrl.data.tasks import load_tasks

    assert default_rewards(load_tasks(["arithmetic"])) == ("accuracy",)
    assert default_rewards(load_tasks(["text-to-image", "instructions"])) == ("relevance", "constraints")


# --- answers in files


def test_answers_come_from_a_column_and_stay_in_the_run(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    rows = [
        {"question": "one?", "answer": 1},
        {"question": "many?", "answer": " 1,600 "},
        {"question": "none?", "answer": ""},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = answers_of_file(file)
    assert found == {input_id("one?"): "1", input_id("many?"): "1,600"}
    store_answers(tmp_path, found)
    store_answers(tmp_path, {input_id("one?"): "2", input_id("three?"): "3"})
    assert read_answers(tmp_path) == {**found, input_id("one?"): "2", input_id("three?"): "3"}
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert read_answers(moved)[input_id("one?")] == "2"
    assert read_answers(moved / "nowhere") == {}
    (moved / "answers.jsonl").write_text('{"input_id": "x"}\n')
    with pytest.raises(RunError, match=r"answers\.jsonl: is damaged"):
        read_answers(moved)


def test_answers_that_differ_are_not_taken_and_those_that_are_needed_are_missed(tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"input": "a", "answer": "1"}\n{"input": "A ", "answer": "2"}\n{"input": "b", "answer": "3"}\n')
    with pytest.warns(UserWarning, match="1 inputs have answers that differ"):
        assert answers_of_file(torn) == {input_id("b"): "3"}
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"input": "a", "anser": "1"}\n')
    assert answers_of_file(bare) == {}
    with pytest.raises(InputError, match=r"there is no column answer \(did you mean anser\?\)"):
        answers_of_file(bare, needed=True)
    late = tmp_path / "late.jsonl"
    late.write_text('{"input": "a"}\n{"input": "b", "answer": ' + "7" * 400 + '}\n{"input": "c"}\n')
    assert answers_of_file(late) == answers_of_file(late, needed=True) == {input_id("b"): "7" * 400}
    lost = tmp_path / "lost.jsonl"
    lost.write_text('{"topic": "a", "answer": "1"}\n')
    with pytest.raises(
        InputError, match="none of the fields text, input, prompt, caption, question is there; found: topic, answer"
    ):
        answers_of_file(lost)
    plain = tmp_path / "plain.txt"
    plain.write_text("a\n")
    assert answers_of_file(plain) == {}


def test_accuracy_is_reproducible_over_many_generated_problems() -> None:
    from udrl.teacher.backends.builtin.arithmetic import RIGHT, invent, write

    reward, stream, rng = load_reward("accuracy"), invent("arithmetic", seed=5), random.Random(1)
    for _ in range(300):
        text, fidelity = next(stream), rng.random()
        written = write(text, fidelity=fidelity, words=rng.randint(2, 12), rng=rng)
        assert written is not None
        assert reward([text], [written]) == [float(fidelity >= RIGHT)]


@pytest.mark.parametrize(
    ("mine", "known", "equal"),
    [
        ("0.000010", "0.00001", True),
        ("0.0000100000001", "1e-05", True),
        ("0.000011", "0.00001", False),
        ("0", "0.0000001", False),
        ("0.3333333", "1/3", True),
        ("12345678.1", "12345678.2", False),
        ("1000001", "1000000", False),
        ("50 percent", "0.5", True),
        ("1e-400", "0", False),
    ],
)
def test_numerals_compare_by_a_relative_tolerance(mine: str, known: str, equal: bool) -> None:
    first, second = final_number(mine), final_number(known)
    assert first is not None
    assert second is not None
    assert first.equals(second) is equal


def test_answers_of_a_table_go_through_unharmed(tmp_path: Path) -> None:
    values = [0.00001, 1e-06, 2.5, 7, -3, 1e22, 1e300, 5e-324, "1,600"]
    file = tmp_path / "answers.jsonl"
    rows = [json.dumps({"input": f"problem {place}", "answer": value}) for place, value in enumerate(values)]
    file.write_text("\n".join(rows))
    read = list(answers_of_file(file).values())
    assert read[:5] == ["0.00001", "0.000001", "2.5", "7", "-3"]
    numbers = [final_number(text) for text in read]
    assert [number and number.value for number in numbers] == [
        *(Fraction(str(value)) for value in values[:-1]),
        Fraction(1600),
    ]
