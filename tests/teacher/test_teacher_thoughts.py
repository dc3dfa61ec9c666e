"""Thoughts beside an answer, in the syntaxes of models and servers."""

import time

import pytest

from udrl.teacher.thoughts import without_thoughts

ANSWER = "The answer."


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nhm\n</think>\n\nTHE",
        "hm\n</think>\nTHE",
        "<thinking>a</thinking>THE",
        "<THINK>x</THINK> THE",
        "[THINK]x[/THINK]THE",
        "<reasoning>x</reasoning>THE",
        "<seed:think>x</seed:think>THE",
        "◁think▷x◁/think▷THE",
        "<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>THE<|END_RESPONSE|>",
        "<|begin_of_thought|>x<|end_of_thought|>\n<|begin_of_solution|>THE<|end_of_solution|>",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>THE<|return|>",
        "analysisWe need.assistantfinalTHE",
        "<think>a<think>b</think>c</think>THE",
        "<think>a</think><answer>THE</answer>",
        "THE\n<think>was it",
        "&lt;think&gt;hm&lt;/think&gt; THE",
        "hm&lt;/think&gt; THE",
        "[BEGIN OF THOUGHT]hm[END OF THOUGHT] THE",
        "<|thought_begin|>hm<|thought_end|>THE",
        "<｜thinking_start｜>hm<｜thinking_end｜>THE",
        "<inner_thoughts>hm</inner_thoughts>THE",
        "Thinking...\nhm\n...done thinking.\n\nTHE",
        "Here is my thought process: x\nHere is my response: THE",
        "```thinking\nx\n```\nTHE",
        '<details type="reasoning" done="true">x</details>THE',
    ],
)
def test_thoughts_are_taken_off(text: str) -> None:
    assert without_thoughts(text.replace("THE", ANSWER)) == ANSWER


@pytest.mark.parametrize("text", ["<think>never", "analysisWe only", "<|channel|>analysis<|message|>x", "x</think>"])
def test_thoughts_alone_leave_nothing(text: str) -> None:
    assert without_thoughts(text) == ""


@pytest.mark.parametrize(
    "text",
    ["Thinking about [1] < 3 ", " a <b>c</b>", "analysis of x", "Here is my plan: x", "a &lt; b &gt; c", "[BEGIN]"],
)
def test_thoughts_are_not_found_in_other_texts(text: str) -> None:
    assert without_thoughts(text) == text


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<|channel|>analysis", "<answer> ", " ", "<", "&lt;", "```thinking\n"]
)
def test_thoughts_take_time_in_proportion_to_the_text(unit: str) -> None:
    started = time.process_time()
    without_thoughts("<think>x</think>" + unit * (100_000 // len(unit)))
    assert time.process_time() - started < 5
