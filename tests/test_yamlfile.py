"""What a user writes into YAML files means what it says, or is refused by the name of its key."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from udrl.cli.main import run
from udrl.config import Key, load_config
from udrl.data.tasks import load_task
from udrl.errors import TaskError
from udrl.teacher.cards import backend_settings, load_card, shipped_cards
from udrl.yamlfile import Switch, read_mapping, read_value, switched, whole_at, written


@pytest.mark.parametrize(
    ("spelled", "value"),
    [
        ("no", "no"),
        ("Off", "Off"),
        ("2024-05-01", "2024-05-01"),
        ("2024-13-45", "2024-13-45"),
        ("12:30:00", "12:30:00"),
        ("y", "y"),
        ("1.2.3", "1.2.3"),
        ("'1e3'", "1e3"),
        ("1e3", 1000.0),
        ("1.5E-2", 0.015),
        ("08", 8),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("1_000", 1000),
        ("-.5", -0.5),
        ("True", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("Null", None),
        ("[no, 1, x]", ["no", 1, "x"]),
    ],
)
def test_yaml_scalars_are_those_of_the_core_schema(tmp_path: Path, spelled: str, value: object) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"key: {spelled}\n")
    found = read_mapping(path, kind="task", versioned=False)["key"]
    assert found == value
    assert type(found) is type(value) or isinstance(found, Switch)
    path.write_bytes(written({"key": value}))
    assert read_mapping(path, kind="task") == {"key": value}, "what is written is read again"


def test_yaml_words_are_switches_where_true_or_false_is_wanted() -> None:
    assert read_value("{a: [no, 'no'], b: On, c: yes, d: true}") == {
        "a": [False, "no"],
        "b": True,
        "c": True,
        "d": True,
    }
    assert switched(Switch("OFF")) is False
    assert read_value("1e4") == 10_000
    for text in ("[1", "{a: 1, a: 2}", "!!int x", "!!timestamp x", "[" * 5000):
        with pytest.raises(ValueError, match="not valid YAML"):
            read_value(text)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [*a]\n", "more than 100,000 values"),
        (LAUGHS, "more than 100,000 values"),
        ("a: " + "[" * 5000, "line 1: not valid YAML|nested too deeply"),
        ("a: !!python/name:os.system\n", "line 1: not valid YAML"),
        ("a: 1\na: 2\n", "line 2: .*key 'a' stands twice"),
        ("- no\n", "must hold 'key: value' lines"),
    ],
)
def test_yaml_files_that_cannot_be_read_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(TaskError, match=message) as error:
        read_mapping(path, kind="task", versioned=False)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(TaskError, match="is a pipe"):
        read_mapping(tmp_path / "a.yaml", kind="task")


def test_yaml_files_without_end_and_paths_that_are_none_are_refused(tmp_path: Path) -> None:
    for path in (Path("/dev/zero"), tmp_path / "large.yaml"):
        if path.name == "large.yaml":
            path.write_text("# a comment\n" * 100_000)
        with pytest.raises(TaskError, match=f"{path}: is longer than 1,048,576 bytes, which no task file is"):
            read_mapping(path, kind="task")
    with pytest.raises(TaskError, match=r"is no path \(embedded null byte\)"):
        read_mapping(Path("a\0.yaml"), kind="task")


def test_yaml_numbers_beyond_every_measure_are_texts_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    hexadecimal = "0x" + "f" * 5000
    path.write_text(f"a: {hexadecimal}\nb: {'9' * 5000}\nc: 0x10\n")
    assert read_mapping(path, kind="task", versioned=False) == {"a": hexadecimal, "b": "9" * 5000, "c": 16}
    path.write_text(f"schema: {hexadecimal}\n")
    with pytest.raises(TaskError, match="key 'schema' must be the integer 1, found '0xfff"):
        read_mapping(path, kind="task")
    for value, found in ((2**31, "2147483648"), (1e300, "1000000000000000052"), (int("9" * 900), "9" * 20)):
        with pytest.raises(TaskError, match=f"key 'n' must be at most 2147483647, found {found}"):
            whole_at({"n": value}, "n", where="a.yaml")
    assert whole_at({"n": 1e3}, "n", where="a.yaml") == 1000
    assert whole_at({"n": 2**80}, "n", where="a.yaml", high=None) == 2**80


def test_yaml_tasks_and_cards_take_words_and_name_the_key_of_what_is_no_text(tmp_path: Path) -> None:
    task = tmp_path / "no.yaml"
    text = "schema: 1\nname: no\ntitle: {}\ndescription: on\ninstruction: '{{input}}'\nlength: {{min: 1e1, max: 020}}\n"
    text += "examples:\n  - {{input: off, completion: 2024-05-01}}\n"
    task.write_text(text.format("Off"))
    found = load_task(task)
    assert (found.name, found.title, found.min_words, found.max_words) == ("no", "Off", 10, 20)
    assert (found.examples[0].input, found.examples[0].completion) == ("off", "2024-05-01")
    task.write_text(text.format("1984"))
    with pytest.raises(TaskError, match="key 'title' must be text, found 1984: put quotation marks around it"):
        load_task(task)
    card = tmp_path / "own.yaml"
    lines = (
        shipped_cards()["qwen3"].read_text() if "qwen3" in shipped_cards() else shipped_cards()["llama3"].read_text()
    )
    head = lines.split("\nchat:")[0].split("\nsettings:")[0]
    card.write_text(
        f"{head}\nchat:\n  template_arguments: {{enable_thinking: no}}\n"
        "settings:\n  vllm: {enforce_eager: on}\n  openai: {concurrency: 1e1}\n"
        + ("" if "\nsampling:" in head else "sampling: [{name: plain, temperature: 1e-1}]\n")
    )
    read = load_card(card)
    assert read.chat.template_arguments == {"enable_thinking": False}
    assert read.settings["vllm"] == {"enforce_eager": True}
    assert backend_settings(read, "openai", {"concurrency": 4}) == {"concurrency": 10}


def test_config_gives_options_what_the_command_line_would(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "run: 007\npii: off\nsteps: 1e3\nshare: 1e-1\ninvent: no\nname: 2024-05-01\ntask: [no, 1.10]\n"
        "target: {x: 0.90}\n"
    )
    keys = {
        "run": Key("run", text=True),
        "pii": Key("pii", text=True, choices=("off", "mask")),
        "steps": Key("steps", whole=True),
        "share": Key("share"),
        "invent": Key("invent"),
        "name": Key("name", text=True),
        "task": Key("tasks", several=True, text=True),
        "target": Key("targets", several=True, text=True),
    }
    expected: dict[str, Any] = {
        "run": "007",
        "pii": "off",
        "steps": 1000,
        "share": 0.1,
        "invent": False,
        "name": "2024-05-01",
        "tasks": ["no", "1.10"],
        "targets": ["x=0.90"],
    }
    assert load_config(path, command="synth", keys=keys, commands=["synth"]) == expected
    path.write_text("pii: false\n")
    assert load_config(path, command="synth", keys=keys, commands=["synth"]) == {"pii": "off"}
    path.write_text("task: [a, ~]\n")
    with pytest.raises(TaskError, match="'task' holds nothing: write a value"):
        load_config(path, command="synth", keys=keys, commands=["synth"])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("pii: off", 0),
        ("pii: false", 0),
        ("num-inputs: 1e1", 0),
        ("invent: off", 0),
        ("num-inputs: 1.5", 2),
        ("pii: 1", 2),
    ],
)
def test_config_spellings_reach_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: int
) -> None:
    config, inputs = tmp_path / "cfg.yaml", tmp_path / "in.txt"
    config.write_text(f"{line}\nrun: {tmp_path}/2024-05-01\n")
    inputs.write_text("a red fox\na blue jay by the lake\n")
    call = ["synth", "--config", str(config), "--task", "text-to-image", "--inputs", str(inputs), "--dry-run", "--json"]
    found, said = run(call), capsys.readouterr()
    assert found == code, said.err
    if not code:
        assert json.loads(said.out)["run"].endswith("/2024-05-01")
    else:
        assert f"--{line.partition(':')[0]}" in said.err
