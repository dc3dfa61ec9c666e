"""Cleaning: what is rejected under which name, what is repaired, and what must be left alone."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ledger_records import response

from udrl.cli.main import app
from udrl.data.cleaning import clean, rejected_by
from udrl.data.episode_builder import build_episodes
from udrl.data.episodes import count_episodes, read_episodes, write_episodes
from udrl.data.leakage import is_preamble, is_quoted, is_refusal, repaired
from udrl.data.ledger import Ledger, LedgerRecord
from udrl.data.rejections import rejected
from udrl.data.rules import RULES
from udrl.data.run import Run
from udrl.data.tasks import Task, load_task, load_tasks, store_tasks
from udrl.errors import TaskError, UsageError
from udrl.teacher.backends.builtin import made_up_word
from udrl.teacher.synthesis.synth import synth

[TASK] = load_tasks(["text-to-image"])
INPUT = "a red fox asleep under an old apple tree"
GOOD = "a red fox asleep under an old apple tree, loose watercolour, low morning sun, wide margins, quiet mood"


def record(completion: str, *, text: str = INPUT, task: Task = TASK, sample: int = 0, **changes: Any) -> LedgerRecord:
    messages = ({"role": "user", "content": task.request(text)},)
    return response(task.name, text, sample, completion, **{"messages": messages, "teacher": "tiny", **changes})


REJECTED = {
    "refusal": [
        "I'm sorry, but I can't help with writing a prompt about that subject.",
        "I cannot create a prompt for this idea because it may be harmful.",
        "I’m unable to assist with that request, but I can write about a fox.",
        "Sorry, I can't do that for you. Try another idea about a fox instead.",
        "As an AI language model, I do not have opinions about foxes under trees.",
        "Unfortunately, I am not able to write this prompt for you right now.",
        "The model is unable to generate a prompt that holds all the concepts.",
    ],
    "role_name": [
        "User: a red fox asleep under an old apple tree, watercolour, soft light",
        "System: write a red fox asleep under an old apple tree, in watercolour",
        f"{GOOD} <|eot_id|><|start_header_id|>assistant<|end_header_id|> another one",
        f"[INST] {GOOD} [/INST]",
    ],
    "preamble": [
        "Sure! A red fox asleep under an old apple tree, watercolour, soft light",
        f"{GOOD}. Let me know if you would like a different style!",
        f'"{GOOD}"\n\nIn this prompt the fox is red and the tree is old, as you asked.',
    ],
    "fenced": [f"```\n{GOOD}", f"{GOOD}\n```"],
    "structured": [
        json.dumps({"prompt": GOOD, "negative_prompt": "people"}),
        json.dumps([GOOD, GOOD]),
        f'{{"completion": "{GOOD}',
        f"{{'output': '{GOOD}'}}",
        f"<answer>{GOOD}",
        f"<prompt>{GOOD}</prompt>\n<prompt>{GOOD}</prompt>",
    ],
    "echo": [
        "Keep every person, animal, object, place, number and colour that the idea names, and keep their relations, "
        "a red fox under a tree"
    ],
    "language": [
        "ein roter Fuchs schläft unter einem alten Apfelbaum, das Licht ist weich und der Morgen ist nicht kalt, "
        "gemalt mit Aquarell auf dem groben Papier, und eine ruhige Stimmung",
        "un renard roux dort sous le vieux pommier, la lumière est douce dans le jardin, et les couleurs du matin "
        "sont pour la plupart chaudes avec une ombre sur le mur",
        "A red fox sleeps under the apple tree, 整个过渡过程流畅自然，增强了场景, soft light and a quiet mood",
        "рыжая лиса спит под старой яблоней, мягкий утренний свет, акварель на бумаге",
    ],
    "loop": ["a red fox, " + "very soft light, " * 6],
    "under_length": ["a fox"],
    "over_length": [" ".join(f"word{n}" for n in range(200))],
    "empty": ["", " ... !"],
}


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in REJECTED.items() for text in texts])
def test_cleaning_rejects_by_name(rule: str, text: str) -> None:
    kept, reason = clean(record(text), TASK)
    assert reason == rule
    assert kept.completion == text, "what is rejected stays as it was written"


def test_cleaning_rules_all_have_a_test_here_or_with_episode_building() -> None:
    assert set(RULES) == {*REJECTED, "unfinished", "duplicate", "quoted"}
    assert rejected_by(record(GOOD, finish_reason="length"), TASK) == "unfinished"
    assert rejected_by(record(f'"{GOOD}"'), TASK) == "quoted", "by itself; clean takes the marks off first"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "Sorry-looking fox under an old apple tree, watercolour with heavy rain, a muddy path and no light",
        "Surely the oldest apple tree of the valley, a red fox asleep under it, watercolour, low sun",
        "Here be dragons: an old map with a red fox asleep in the corner, sepia ink, torn edges, candle light",
        "Certain foxes sleep under apple trees, watercolour, low sun, wide margins and a quiet mood",
        "I am a fox that cannot sleep under the old apple tree, storybook page in ink, low sun",
        "System of roots under an old apple tree, a red fox asleep among them, cutaway view, warm light",
        "A poster that reads 'Let me know', a red fox asleep below it under an apple tree, bold type",
        '"Fox" in neon letters over an old apple tree, a red fox asleep below, night, "open" sign to the left',
        "'Tis the season: a red fox asleep under an old apple tree, frost on the grass, blue hour",
        "a sushi bar named 寿司 with a red fox asleep under an old apple tree by the door, soft evening light",
        "the Krønstaal of Vörlund and der Zwerg Grimbold under an apple tree, woodcut in black, red fox asleep",
        "Ein Prosit! beer hall with a red fox asleep under the apple tree at the door, lanterns, warm evening",
        "{{masterpiece}}, [red fox] asleep under an old apple tree, loose watercolour, low sun, quiet mood {soft}",
        "<b>FOX</b> in bold letters on an old poster, a red fox asleep below it under an apple tree, low sun",
        '{"role": "painter", "subject": "a red fox asleep under an old apple tree, low sun, quiet mood, soft light"}',
        "a fox, a fox, a fox and then the tree: counting rhyme on a painted wall, apple red and leaf green",
    ],
)
def test_cleaning_keeps_what_only_looks_alike(text: str) -> None:
    kept, reason = clean(record(text), TASK)
    assert (reason, kept.completion) == (None, text)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (f"Here is your prompt:\n\n{GOOD}", ("preamble",)),
        (f"Sure! Here's a text-to-image prompt for your idea: {GOOD}", ("preamble",)),
        (f"Sure, here is a prompt about “a red fox”:\n\n“{GOOD}”", ("preamble", "quoted")),
        (f"Certainly! Here’s the expanded prompt:\n```\n{GOOD}\n```", ("preamble", "fenced")),
        (f"**Prompt:** {GOOD}", ("preamble",)),
        (f"Expanded prompt: {GOOD}", ("preamble",)),
        (f"{GOOD}\n\nLet me know if you'd like me to change anything!", ("preamble",)),
        (f"{GOOD}\n\n(Word count: 19)", ("preamble",)),
        (f'"{GOOD}"', ("quoted",)),
        (f"```text\n{GOOD}\n```", ("fenced",)),
        (json.dumps({"completion": GOOD}), ("structured",)),
        (json.dumps({"prompt": GOOD, "words": 19, "confidence": 0.9, "notes": None}), ("structured",)),
        (json.dumps([{"output": {"text": GOOD}}]), ("structured",)),
        (f"Here is the JSON:\n```json\n{json.dumps({'prompt': GOOD})}\n```", ("preamble", "fenced", "structured")),
        (f"<prompt>\n{GOOD}\n</prompt>", ("structured",)),
        (f"<Final_Answer>{GOOD}</Final_Answer>", ("structured",)),
        (f"Assistant: {GOOD}", ("role_name",)),
        (f"{GOOD}</s></s></s>", ("role_name",)),
        (f'{GOOD}"', ()),
        (GOOD, ()),
    ],
)
def test_cleaning_repairs_what_stands_around_an_answer(text: str, rules: tuple[str, ...]) -> None:
    found, repairs = repaired(text)
    assert set(repairs) == set(rules)
    if rules:
        assert found == GOOD
        kept, reason = clean(record(text), TASK)
        assert (reason, kept.completion) == (None, GOOD)
        assert set(str(kept.sampling["repaired"]).split(", ")) == set(rules)
    else:
        assert found == text


def test_cleaning_takes_structure_for_right_where_nobody_knows_what_was_asked() -> None:
    """Recorded outputs come without their instruction: a set of them may be JSON on purpose."""
    unknown, text = replace(TASK, instruction="{input}"), json.dumps({"answer": GOOD})
    recorded = record(text, messages=({"role": "user", "content": INPUT},))
    assert clean(recorded, unknown) == (recorded, None)
    assert clean(recorded, TASK)[0].completion == GOOD


def test_cleaning_never_repairs_down_to_nothing() -> None:
    for text in ("Here is your prompt:", "Prompt:\n", '"..."', "```\n```", "Sure, here it is: !!!"):
        assert repaired(text)[0].strip() == text.strip()


def test_cleaning_does_not_take_names_or_made_up_words_for_a_language() -> None:
    rng = random.Random(5)
    for _ in range(500):
        text = " ".join(made_up_word(rng) for _ in range(30))
        assert rejected_by(record(text), TASK) is None, text


def test_cleaning_takes_an_answer_in_the_inputs_language_for_right() -> None:
    german = REJECTED["language"][0]
    assert clean(record(german, text="ein Fuchs unter dem Apfelbaum, der schläft"), TASK)[1] is None
    assert clean(record(german, text="a fox, answer in German please"), TASK)[1] is None
    assert clean(record("рыжая лиса спит под старой яблоней", text="лиса спит"), TASK)[1] is None
    assert clean(record("рыжая лиса спит под старой яблоней", text="a fox, Russian caption"), TASK)[1] is None
    assert clean(record("рыжая лиса спит под старой яблоней", text="a German shepherd"), TASK)[1] == "language"
    assert clean(record(german, text="french toast on a plate"), TASK)[1] == "language"


def test_cleaning_may_repeat_the_input_but_not_the_request() -> None:
    long = "an old fisherman mends a net on a wet stone pier while two gulls wait for scraps beside him"
    assert clean(record(f"{long}, oil painting, grey light", text=long), TASK)[1] is None


def test_cleaning_rules_can_be_allowed_by_a_task(tmp_path: Path) -> None:
    file = tmp_path / "text-to-image.yaml"
    file.write_text(TASK.path.read_text() + "\nallow: [quoted, language]\n")
    task = load_task(file)
    assert task.allow == ("quoted", "language")
    assert clean(record(f'"{GOOD}"'), task) == (record(f'"{GOOD}"'), None)
    assert clean(record(REJECTED["language"][0]), task)[1] is None
    assert clean(record("I'm sorry, but I can't help with that, whatever the fox does."), task)[1] == "refusal"
    file.write_text(TASK.path.read_text() + "\nallow: [quotes]\n")
    with pytest.raises(TaskError, match=r"text-to-image.yaml: key 'allow': unknown cleaning rule 'quotes' \(did you"):
        load_task(file)


def test_cleaning_keeps_equal_completions_where_a_task_allows_them(tmp_path: Path) -> None:
    run = run_with(tmp_path, [GOOD, GOOD])
    found = list(build_episodes(Ledger(run.ledger), [replace(TASK, allow=("duplicate",))], mismatched=0, truncated=0))
    assert [one.rejected_by for one in found] == [None, None]


def test_cleaning_reads_quotes_in_pairs() -> None:
    assert is_quoted("'it's a fox, isn't it'")
    assert not is_quoted("'red' and 'blue'")
    assert not is_quoted('"red" and "blue"')
    assert not is_quoted("“")
    assert not is_refusal("I can help you write this")
    assert not is_preamble("")


@pytest.mark.parametrize(
    ("text", "given", "found"),
    [
        # what SmolLM2-135M wrote
        ("The idea of curling stone sliding, a sweeping motion, is a great example of a single shot.", INPUT, True),
        ("The idea omits audio in this line of the flat-pack sushi. With video it retains much.", INPUT, True),
        ("**This prompt** asks for a fox, and the light should be low.", INPUT, True),
        ("the idea of a river, painted in ink", "the idea of a river", False),
        ("the ideal of a knight, oil on canvas", INPUT, False),
        ("a promptbook on a table; the idea of rain in the window", INPUT, False),
    ],
)
def test_cleaning_of_talk_about_the_idea_that_was_given(text: str, given: str, found: bool) -> None:
    assert is_preamble(text, given=given) is found
    assert (rejected_by(record(text, text=given), TASK) == "preamble") is found


def run_with(tmp_path: Path, completions: list[str]) -> Run:
    run = Run(tmp_path / "run")
    with run.writing():
        store_tasks(run, [TASK])
        with Ledger(run.ledger) as ledger:
            for sample, completion in enumerate(completions):
                ledger.append(record(completion, sample=sample))
            write_episodes(run.episodes, build_episodes(ledger, [TASK], mismatched=0, truncated=0))
    return run


def test_cleaning_keeps_the_raw_text_in_the_ledger_and_counts_repairs(tmp_path: Path) -> None:
    raw = f"Here is your prompt:\n\n{GOOD}"
    run = run_with(tmp_path, [raw, REJECTED["refusal"][0], f'"{GOOD}"', GOOD.upper()])
    assert next(iter(Ledger(run.ledger))).completion == raw
    episodes = read_episodes(run.episodes, splits=("train", "validation", "test"), kept=False)
    assert [(e.completion, e.rejected_by) for e in episodes] == [
        (GOOD, None),
        (REJECTED["refusal"][0], "refusal"),
        (GOOD, "duplicate"),
        (GOOD.upper(), None),
    ]
    assert episodes[0].horizon == len(GOOD.split())
    counts = count_episodes(run.episodes)
    assert counts["repaired:preamble"] == counts["repaired:quoted"] == 1
    assert counts["rejected:refusal"] == counts["rejected:duplicate"] == 1


def test_cleaning_shows_what_it_rejected_and_repaired(tmp_path: Path) -> None:
    raw = f"Here is your prompt:\n\n{GOOD}"
    run = run_with(tmp_path, [raw, REJECTED["refusal"][0], REJECTED["loop"][0]])
    before = sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*"))
    report = rejected(run)
    assert report.total == 3
    assert report.counts == {"refusal": 1, "loop": 1, "repaired:preamble": 1}
    [shown] = [example for example in report.examples if example.rule == "repaired:preamble"]
    assert (shown.written, shown.completion) == (raw, GOOD)
    assert [example.rule for example in rejected(run, "loop").examples] == ["loop"]
    with pytest.raises(UsageError, match=r"unknown cleaning rule 'lop' \(did you mean loop\?\)"):
        rejected(run, "lop")

    result = CliRunner().invoke(app, ["synth", "--run", str(run.path), "--show-rejected"])
    assert result.exit_code == 0
    assert "refusal: text-to-image, by tiny" in result.output
    assert "33.3 %" in result.output
    result = CliRunner().invoke(app, ["synth", "--run", str(run.path), "--show-rejected", "loop", "--json"])
    assert [example["rule"] for example in json.loads(result.output)["examples"]] == ["loop"]
    assert sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) == before, "nothing is written"


def test_cleaning_leaves_the_builtin_teacher_alone(tmp_path: Path) -> None:
    report = synth(tmp_path / "run", num_inputs=20, samples=4, score=False)
    found = {name for name, count in report.episodes.items() if name.startswith(("rejected:", "repaired:")) and count}
    assert report.episodes["teacher"] == 20 * 4 * len(load_tasks())
    assert found <= {"rejected:duplicate"}


def real(shared_data: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared_data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_cleaning_of_real_prompts_rejects_next_to_nothing_wrongly(shared_data: Path) -> None:
    """Captions and briefs that people checked: what a rule finds here must be rare, and most of it is there."""
    task = replace(TASK, min_words=1, max_words=10_000)
    rows = [row for row in real(shared_data, "recorded_pairs") if row["task"] in ("text-to-video", "text-to-image")]
    found: Counter[str] = Counter()
    for row in rows:
        kept, reason = clean(record(row["output"], text=row["input"], task=task), task)
        found.update(
            [reason] if reason else [f"repaired:{kept.sampling['repaired']}"] if kept.sampling.get("repaired") else []
        )
    assert len(rows) > 4000
    assert found["language"] == 5, "Wan2.1's rewriter changes to Chinese in the middle, five times"
    assert found["repaired:quoted"] == 1
    assert found.total() == 6


def test_cleaning_of_real_answers_takes_their_wrapping_off(shared_data: Path) -> None:
    """Seven models were asked for JSON alone: most say "Here is the solution:", fence it, or leak end tokens."""
    task = replace(TASK, min_words=1, max_words=10_000)
    rows = real(shared_data, "recorded_gsm8k")[::5]
    bare = before = 0
    for row in rows:
        kept, reason = clean(record(row["output"], text=row["input"], task=task), task)
        before += row["output"].strip().startswith("{")
        bare += reason is None and str(kept.completion).lstrip().startswith(("{", "["))
    assert before < 0.25 * len(rows)
    assert bare > 0.9 * len(rows)


@pytest.mark.parametrize(
    ("text", "completion"),
    [
        ("a red kettle", "Red kettle, now only <s>49 euros</s> 29 euros, while stocks last this week."),
        ("a red kettle", "<s>49 euros</s> 29 euros is the new and very low price of our good red kettle."),
        ("a red kettle", "Our good red kettle is now at 29 euros instead of the old price of <s>49 euros</s>"),
        ("explain the token <|im_end|> to a beginner", "The token <|im_end|> ends a turn, so that the model stops."),
        ("what does [INST] mean in a prompt", "In some templates [INST] opens what the user says to the model."),
        ("a dialogue of two friends about tea", "User: Do you like tea? Friend: I like green tea in the morning."),
        (
            "a fenced code block that adds 2 and 3",
            "```python\nprint(2 + 3)  # this adds two numbers and prints them\n```",
        ),
        ("write a Python function that adds", "This adds two numbers:\n```python\ndef add(a, b): return a + b\n```"),
        ("a fox as JSON", json.dumps({"prompt": "a red fox under an old apple tree in the morning"})),
        ("a fox, put into <prompt> tags", "<prompt>a red fox under an old apple tree in the morning</prompt>"),
        ('{"animal": "fox"}', json.dumps({"prompt": "a red fox under an old apple tree in the morning"})),
        ("the motto of the house in quotes", '"A warm house is a good house for all who come in from the cold"'),
    ],
)
def test_cleaning_takes_what_the_request_asks_for(text: str, completion: str) -> None:
    task = replace(TASK, min_words=4)
    kept, reason = clean(record(completion, text=text), task)
    assert (kept.completion, reason) == (completion, None)


@pytest.mark.parametrize(
    "completion",
    [
        f"<s>{GOOD}</s>",
        f"{GOOD}</s> <s> {GOOD}",
        f"{GOOD} <|im_end|> more",
        f"[INST] {GOOD}",
        f"User: {GOOD}",
    ],
)
def test_cleaning_rejects_tokens_that_nobody_asked_for(completion: str) -> None:
    assert rejected_by(record(completion, text="no dialogue: a red fox, without quotation marks"), TASK) == "role_name"


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Translate the following notice for the staff into German: {input}", None),
        ("Write a notice for the staff in German about this: {input}", None),
        ("Schreibe eine Notiz auf Deutsch: {input}", None),
        ("Write a notice for the staff in French about this: {input}", "language"),
        ("Write a short notice for the staff of the house about this: {input}", "language"),
    ],
)
def test_cleaning_judges_the_language_by_the_instruction_too(instruction: str, reason: str | None) -> None:
    task = replace(TASK, instruction=instruction, min_words=4)
    text = "The old bridge is closed until the end of the month"
    german = "Die alte Brücke ist bis zum Ende des Monats gesperrt und wird in der Zeit von einer Firma erneuert"
    recorded = record(german, text=text, messages=({"role": "user", "content": text},))
    assert rejected_by(recorded, task) == reason
    russian = "Старый мост закрыт до конца месяца, и его ремонтирует одна фирма"
    assert rejected_by(record(russian, text=text), replace(task, instruction="In Russian, please: {input}")) is None
