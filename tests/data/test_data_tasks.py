"""Task files: strict reading, and the tasks that ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from udrl.data.inputs import input_id
from udrl.data.run import Run
from udrl.data.tasks import load_task, load_tasks, seeds, shipped_tasks, store_tasks, stored_tasks
from udrl.errors import RunError, TaskError, UsageError
from udrl.words import count_words

VALID: dict[str, Any] = {
    "schema": 1,
    "name": "haiku",
    "title": "Haiku",
    "description": "A short poem.",
    "instruction": "Write {min_words} to {max_words} words on: {input}",
    "invent": "Like {examples}, write {count} more.",
    "length": {"min": 5, "max": 17},
    "examples": [{"input": "snow", "completion": "white hush"}],
    "lexicon": {
        "separator": ", ",
        "openers": ["a poem on {}"],
        "mentions": ["with {}"],
        "details": ["soft"],
        "closers": ["end"],
    },
}


def task_file(tmp_path: Path, **changes: Any) -> Path:
    """Write the valid task with some keys changed (None: taken out)."""
    data = {key: value for key, value in {**VALID, **changes}.items() if value is not None}
    path = tmp_path / "haiku.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def test_tasks_load_what_the_file_says(tmp_path: Path) -> None:
    task = load_task(task_file(tmp_path))
    assert (task.name, task.min_words, task.max_words) == ("haiku", 5, 17)
    assert task.examples[0].completion == "white hush"
    assert task.lexicon is not None
    assert task.lexicon.mentions == ("with {}",)
    assert task.request("rain") == "Write 5 to 17 words on: rain"


def test_tasks_request_leaves_braces_of_the_input_alone(tmp_path: Path) -> None:
    task = load_task(task_file(tmp_path, instruction='Answer as {{"json"}}: {input}'))
    assert task.request("{max_words} {0} {{x}}") == 'Answer as {"json"}: {max_words} {0} {{x}}'


def test_tasks_may_leave_out_what_only_the_builtin_teacher_needs(tmp_path: Path) -> None:
    task = load_task(task_file(tmp_path, lexicon=None, invent=None, examples=None))
    assert task.lexicon is None
    assert task.invent is None
    assert seeds(task) == []


def lexicon(**changes: Any) -> dict[str, Any]:
    return {**VALID["lexicon"], **changes}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"titel": "x"}, r"unknown key 'titel' \(did you mean title\?\)"),
    ({"title": None}, "key 'title' is missing"),
    ({"title": 5}, "key 'title' must be text"),
    ({"name": "Two Words"}, "key 'name' must be small letters"),
    ({"schema": None}, "key 'schema' must be the integer 1"),
    ({"schema": 2}, "has schema 2, this udrl reads up to 1"),
    ({"instruction": "no variable"}, r"key 'instruction' must use the variable '\{input\}'"),
    ({"instruction": "{inptu}"}, r"unknown variable '\{inptu\}' \(did you mean input\?\)"),
    ({"instruction": "{input.__class__}"}, "unknown variable"),
    ({"instruction": "{input!r}"}, "unknown variable"),
    ({"instruction": "{input:>9}"}, "unknown variable"),
    ({"instruction": "{} {input}"}, "unknown variable"),
    ({"instruction": "{input"}, "not a valid template"),
    ({"invent": "{examples}"}, r"must use the variable '\{count\}'"),
    ({"length": {"min": 9, "max": 3}}, "length: key 'max' must be an integer of at least 9, found 3"),
    ({"length": {"min": 0, "max": 3}}, "length: key 'min'"),
    ({"length": {"min": True, "max": 3}}, "length: key 'min'"),
    ({"length": 5}, "key 'length' must hold 'key: value' lines"),
    ({"examples": [{"input": "x"}]}, "examples, item 1: key 'completion' is missing"),
    ({"examples": ["x"]}, "examples, item 1: must hold the keys"),
    ({"lexicon": lexicon(openers=["no slot"])}, r"item 1 of 'openers' must hold exactly one slot '\{\}'"),
    ({"lexicon": lexicon(mentions=["{} and {}"])}, "item 1 of 'mentions' must hold exactly one slot"),
    ({"lexicon": lexicon(mentions=["with {input}"])}, "item 1 of 'mentions' must hold exactly one slot"),
    ({"lexicon": lexicon(details=["fine", "not {}"])}, "item 2 of 'details' must hold no slot"),
    ({"lexicon": lexicon(closers=[])}, "key 'closers' must be a list of texts"),
    ({"lexicon": lexicon(closers=["end", 5])}, "item 2 of 'closers' must be text, found 5"),
    ({"lexicon": lexicon(separator=5)}, "key 'separator' must be text"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_tasks_refuse_a_bad_file_and_name_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = task_file(tmp_path, **changes)
    with pytest.raises(TaskError, match=message) as error:
        load_task(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"name: a\nname: b\n", "line 2: not valid YAML .*'name' stands twice"),
        (b"a: {b: 1, b: 2}\n", "'b' stands twice"),
        (b"name: [\n", "line 2: not valid YAML"),
        (b"- a\n- b\n", "found a list"),
        (b"", "found nothing"),
        (b"name: caf\xe9\n", "not UTF-8"),
        (b"name: !!python/object:os.system x\n", "not valid YAML"),
    ],
)
def test_tasks_refuse_what_is_no_yaml_mapping(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    with pytest.raises(TaskError, match=message):
        load_task(path)


def test_tasks_refuse_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no task file"):
        load_tasks([tmp_path / "no.yaml"])


def test_tasks_by_name_file_or_all(tmp_path: Path) -> None:
    assert [task.name for task in load_tasks()] == sorted(shipped_tasks())
    both = load_tasks(["text-to-image", task_file(tmp_path)])
    assert [task.name for task in both] == ["text-to-image", "haiku"]
    with pytest.raises(UsageError, match=r"unknown task 'text-to-imgae' \(did you mean text-to-image\?\)"):
        load_tasks(["text-to-imgae"])
    with pytest.raises(UsageError, match="'text-to-image' is named twice"):
        load_tasks(["text-to-image", "text-to-image"])


@pytest.mark.parametrize("name", sorted(shipped_tasks()))
def test_tasks_that_ship_are_complete(name: str) -> None:
    task = load_task(shipped_tasks()[name])
    assert task.name == name, "a shipped task is found by its file's name"
    assert task.lexicon is not None
    assert task.invent is not None
    assert len(task.examples) >= 3
    for example in task.examples:
        assert task.min_words <= count_words(example.completion) <= task.max_words


def test_tasks_that_ship_are_at_least_the_promised_six() -> None:
    promised = {"text-to-image", "text-to-video", "image-edit", "design-template", "assistant", "search-query"}
    assert promised <= set(shipped_tasks())


@pytest.mark.parametrize("name", sorted(shipped_tasks()))
def test_tasks_that_ship_have_150_distinct_seeds(name: str) -> None:
    texts = seeds(load_task(shipped_tasks()[name]))
    assert len({input_id(text) for text in texts}) >= 150


def test_tasks_seeds_are_found_beside_the_file_then_in_seeds_then_in_examples(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    task = load_task(task_file(tmp_path / "tasks"))
    assert seeds(task) == ["snow"]
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "haiku.jsonl").write_text('{"text": "from the seeds folder"}\n')
    assert seeds(task) == ["from the seeds folder"]
    (tmp_path / "tasks" / "haiku.jsonl").write_text('{"text": "from beside the task"}\n')
    assert seeds(task) == ["from beside the task"]


def test_tasks_are_stored_with_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.writing():
        with pytest.raises(RunError, match="holds no tasks"):
            stored_tasks(run)
        store_tasks(run, load_tasks(["text-to-image", task_file(tmp_path)]))
        assert [task.name for task in stored_tasks(run)] == ["haiku", "text-to-image"]
        store_tasks(run, [load_task(task_file(tmp_path, title="Changed"))])
    assert [task.title for task in stored_tasks(run)] == ["Changed", "Text-to-image prompts"]
