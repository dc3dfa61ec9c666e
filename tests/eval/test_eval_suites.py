from __future__ import annotations

import json
from pathlib import Path

import pytest

from udrl.data.inputs import input_id
from udrl.data.tasks import shipped_tasks
from udrl.errors import TaskError, UsageError
from udrl.eval.suites import SYSTEMS, Sweep, load_items, load_suite, suite_names

SUITE = """\
schema: 1
name: mine
title: Mine
description: what I ask
inputs: {folder: texts}
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for task, texts in {"alpha": ["one", "two", "Two ", "three"], "beta": ["four"]}.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "texts" / f"{task}.jsonl").write_text(lines, encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


def test_suites_that_ship_have_enough_inputs_for_every_task() -> None:
    assert {"relevance", "foreign"} <= set(suite_names())
    tasks = list(shipped_tasks())
    relevance = load_items(load_suite("relevance"), known_tasks=tasks)
    assert {task: len(relevance.of(task)) >= 50 for task in tasks} == dict.fromkeys(tasks, True)
    assert len(load_items(load_suite("foreign"), known_tasks=tasks).items) >= 200


def test_suites_defaults_are_those_of_the_documentation(suite_file: Path) -> None:
    suite = load_suite(suite_file)
    assert suite.systems == SYSTEMS
    assert (suite.samples, suite.limit, suite.following) == (3, None, None)
    assert (suite.encoder, suite.second_encoder) == ("all-MiniLM-L6-v2", "lsa")
    assert load_suite("relevance").following == Sweep(inputs=50, seeds=3)


def test_suites_give_each_input_once_in_order_up_to_the_limit(suite_file: Path) -> None:
    found = load_items(load_suite(suite_file), known_tasks=["alpha", "beta", "gamma"])
    assert [(item.task, item.input) for item in found.items] == [
        ("alpha", "one"),
        ("alpha", "two"),
        ("alpha", "three"),
        ("beta", "four"),
    ]
    few = load_items(load_suite(suite_file), known_tasks=["alpha", "beta"], limit=1)
    assert [item.input for item in few.items] == ["one", "four"]


def test_suites_leave_out_what_training_has_seen(suite_file: Path) -> None:
    known = {input_id("ONE"), input_id("four")}
    found = load_items(load_suite(suite_file), known_tasks=["alpha", "beta"], seen=lambda _, i: i in known)
    assert [item.input for item in found.items] == ["two", "three"]
    assert found.seen == 2
    assert found.tasks == ("alpha",)
    with pytest.raises(TaskError, match="no held-out input"):
        load_items(load_suite(suite_file), known_tasks=["alpha", "beta"], seen=lambda *_: True)


def test_suites_take_a_file_of_one_task_with_a_field(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("idea,other\na red fox,1\n", encoding="utf-8")
    path = tmp_path / "s.yaml"
    path.write_text(SUITE.replace("{folder: texts}", "{file: mine.csv, task: alpha, field: idea}"))
    found = load_items(load_suite(path), known_tasks=["alpha", "beta"])
    assert [(item.task, item.input) for item in found.items] == [("alpha", "a red fox")]


def test_suites_take_the_test_split_of_a_run(suite_file: Path) -> None:
    suite_file.write_text(SUITE.replace("{folder: texts}", "{split: test}"))
    from eval_fakes import items

    found = load_items(load_suite(suite_file), known_tasks=["alpha"], split=lambda task: items(task, ["held out"]))
    assert [item.input for item in found.items] == ["held out"]
    with pytest.raises(TaskError, match="there is no run"):
        load_items(load_suite(suite_file), known_tasks=["alpha"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: Mine", "titel: Mine"), "did you mean title"),
        (("name: mine", "name: ../mine"), "key 'name'"),
        (("{folder: texts}", "{folder: texts, split: test}"), "exactly one of folder, split, file, hub and recorded"),
        (("{folder: texts}", "{recorded: outputs.jsonl}"), "must be true"),
        (("{folder: texts}", "{hub: org/data}"), "key 'task' is missing"),
        (("{folder: texts}", "{folder: nowhere}"), "there is no folder"),
        (("{folder: texts}", "{split: train}"), "'test'"),
        (("schema: 1", "schema: 9"), "schema 9"),
        (("schema: 1", "schema: 1\nsamples: 0"), "at least 1"),
        (("schema: 1", "schema: 1\nsystems: [eco]"), "did you mean echo"),
        (("schema: 1", "schema: 1\nfollowing: {inputs: 5, sead: 1}"), "did you mean seeds"),
    ],
)
def test_suites_that_are_wrong_name_file_and_key(suite_file: Path, change: tuple[str, str], message: str) -> None:
    suite_file.write_text(SUITE.replace(*change))
    with pytest.raises(TaskError, match=message) as caught:
        load_suite(suite_file)
    assert str(suite_file) in str(caught.value)


def test_suites_unknown_names_suggest_the_nearest(suite_file: Path) -> None:
    with pytest.raises(UsageError, match="did you mean relevance"):
        load_suite("relevanse")
    suite_file.write_text(SUITE + "tasks: [alfa]\n")
    with pytest.raises(UsageError, match="did you mean alpha"):
        load_items(load_suite(suite_file), known_tasks=["alpha"])


def test_suites_task_named_without_inputs_is_an_error(suite_file: Path) -> None:
    suite_file.write_text(SUITE + "tasks: [gamma]\n")
    with pytest.raises(TaskError, match=r"gamma\.jsonl"):
        load_items(load_suite(suite_file), known_tasks=["alpha", "gamma"])


def test_suites_take_inputs_of_a_dataset(suite_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    rows = [{"question": text, "answer": "-"} for text in ("one", " two ", "", "one")]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    hub = f"{{hub: {folder}, task: alpha, field: question}}"
    suite_file.write_text(SUITE.replace("{folder: texts}", hub), encoding="utf-8")
    found = load_items(load_suite(suite_file), known_tasks=["alpha", "beta"])
    assert [(item.task, item.input) for item in found.items] == [("alpha", "one"), ("alpha", "two")]
    suite_file.write_text(SUITE.replace("{folder: texts}", hub.replace("question", "caption")), encoding="utf-8")
    with pytest.raises(TaskError, match="no column caption; found: question, answer"):
        load_items(load_suite(suite_file), known_tasks=["alpha"])
    suite_file.write_text(SUITE.replace("{folder: texts}", hub.replace("task:", "split: nosuch, task:")))
    with pytest.raises(TaskError, match="split nosuch, cannot be had"):
        load_items(load_suite(suite_file), known_tasks=["alpha"])


def test_suites_name_systems_seed_and_files_of_their_own(suite_file: Path) -> None:
    more = "seed: 7\nstudents: [runs/a, b=runs/b]\nreferences: [llama3]\nrecorded: [o.jsonl]\nrewards: [novelty]\n"
    suite_file.write_text(SUITE + more, encoding="utf-8")
    suite, here = load_suite(suite_file), suite_file.parent
    assert (suite.seed, suite.references, suite.rewards) == (7, ("llama3",), ("novelty",))
    assert suite.students == (str(here / "runs/a"), f"b={here / 'runs/b'}")
    assert suite.recorded == (here / "o.jsonl",)
