"""udrl mcp, asked by the SDK's own client over pipes: in a process that imports nothing heavy."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError, StdioServerParameters
from tiny_answering import TASK, TEXTS, save_exported, tiny_student

from udrl.commands import Command
from udrl.errors import MissingDependency
from udrl.serve import mcp
from udrl.serve.options import ServeOptions
from udrl.student.student import Student, load_student
from udrl.words import count_words

PROGRAM = """
import sys
class Heavy:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "sklearn", "datasets", "pandas"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Heavy())
from udrl.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcp") / "student"
    save_exported(tiny_student(), folder)
    return folder


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return load_student(folder, engine="onnx-fp32")


def ask(folder: Path, talk: Callable[[Client], Awaitable[Any]], names: tuple[str, ...] = ("tiny",)) -> Any:
    """Start the command, let ``talk`` speak with it, and return what that returns."""
    named = [word for name in names for word in ("--student", f"{name}={folder}")]
    command = StdioServerParameters(
        command=sys.executable,
        args=["-c", PROGRAM, "mcp", *named, "--engine", "onnx-fp32"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    async def run() -> Any:
        async with Client(command, read_timeout_seconds=120) as client:
            return await talk(client)

    return asyncio.run(run())


def test_the_tools_say_what_they_take_and_do_it(folder: Path, student: Student) -> None:
    async def talk(client: Client) -> list[Any]:
        asked = {"text": TEXTS[0], "task": TASK, "length": 9, "variants": 3, "seed": 5}
        return [
            await client.list_tools(),
            await client.call_tool("rewrite", asked),
            await client.call_tool("rewrite", {"text": TEXTS[0], "target": {"length": 9}, "seed": 5}),
            await client.call_tool("rewrite", {"text": TEXTS[0], "length": 300, "seed": 5}),
            await client.call_tool("reachable", {"task": TASK}),
            await client.call_tool("students", {}),
        ]

    listed, three, one, clamped, reachable, students = ask(folder, talk)
    tools = {tool.name: tool.input_schema for tool in listed.tools}
    assert list(tools) == ["rewrite", "reachable", "students"]
    knobs = ["text", "task", "relevance", "length", "target", "variants", "seed", "student"]
    assert list(tools["rewrite"]["properties"]) == knobs
    assert tools["rewrite"]["required"] == ["text"]

    command = Command(TASK, {"length": 9.0})
    expected = [made.completion for made in student.generate([TEXTS[0]] * 3, [command] * 3, seeds=[5, 6, 7])]
    variants = three.structured_content["variants"]
    assert [variant["text"] for variant in variants] == expected
    assert [variant["seed"] for variant in variants] == [5, 6, 7]
    assert json.loads(three.content[0].text) == three.structured_content
    assert [variant["text"] for variant in one.structured_content["variants"]] == expected[:1]
    [far] = clamped.structured_content["variants"]
    assert far["clamped"]["length"]["asked"] == 300
    assert far["achieved"] == {"length": float(count_words(far["text"]))}

    low, high = (round(end, 4) for end in student.reachable(TASK, "length"))
    assert reachable.structured_content == {"student": "tiny", "task": TASK, "reachable": {"length": [low, high]}}
    [told] = students.structured_content["students"]
    assert (told["student"], told["tasks"], told["engine"]) == ("tiny", [TASK], "onnx")


def test_what_a_tool_cannot_do_is_told_where_a_model_reads_it(folder: Path) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("rewrite", {"student": "a"}, "'text' is missing"),
        ("rewrite", {"text": "a fox"}, "'student' is missing: one of a, b"),
        ("rewrite", {"text": "a fox", "student": "c"}, "served: a, b"),
        ("rewrite", {"text": "a fox", "student": "a", "lenght": 9}, "rewrite takes no 'lenght' (did you mean length?)"),
        ("rewrite", {"text": "a fox", "student": "a", "length": "nine"}, "'length' must be a number"),
        ("rewrite", {"text": "a fox", "student": "a", "variants": 129}, "at most 128"),
        ("rewrite", {"text": "a fox", "student": "a", "variants": 0}, "num"),
        ("rewrite", {"text": " ", "student": "a"}, "the input is empty"),
        ("rewrite", {"text": "a fox", "student": "a", "task": "poem"}, "poem"),
        ("reachable", {"student": "a", "length": True}, "'length' must be a number"),
        ("reachable", {"student": "a", "task": "poem"}, "poem"),
        ("students", {"student": "a"}, "students takes no 'student'"),
    ]

    async def talk(client: Client) -> list[Any]:
        answers = [await client.call_tool(name, given) for name, given, _ in wrong]
        with pytest.raises(MCPError, match="there is no tool 'rewrit'"):
            await client.call_tool("rewrit", {})
        both = [client.call_tool("rewrite", {"text": "a fox", "student": name, "seed": 1}) for name in "ab"]
        return [*answers, *await asyncio.gather(*both)]

    *refused, first, second = ask(folder, talk, names=("a", "b"))
    for answer, (_, _, said) in zip(refused, wrong, strict=True):
        assert answer.is_error, said
        assert said in answer.content[0].text
    texts = [one.structured_content["variants"][0]["text"] for one in (first, second)]
    assert texts[0] == texts[1]


def test_without_the_sdk_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(mcp, "is_installed", lambda package: package != "mcp")
    with pytest.raises(MissingDependency, match=r"pip install 'udrl\[mcp\]'"):
        mcp.serve_mcp(ServeOptions({"tiny": folder}))
