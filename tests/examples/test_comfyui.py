"""The node for ComfyUI, in a stand-in of its documented contract, against a real udrl serve."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy_stand_in
import pytest
from serving import Server, serving
from tiny_answering import TASK, TEXTS, tiny_student

from udrl.commands import Command
from udrl.student.student import Student

FOLDER = Path(__file__).parents[2] / "examples" / "comfyui"


@pytest.fixture(scope="module")
def node() -> Iterator[Any]:
    """Yield the node's class, loaded as ComfyUI loads a folder of custom nodes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in comfy_stand_in.modules().items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("udrl_rewrite", FOLDER / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        for name in ("udrl_rewrite", "udrl_rewrite.nodes", "udrl_rewrite.client"):
            patch.setitem(sys.modules, name, package)
        for name in ("udrl_rewrite.nodes", "udrl_rewrite.client"):
            del sys.modules[name]
        spec.loader.exec_module(package)
        extension = asyncio.run(package.comfy_entrypoint())
        [made] = asyncio.run(extension.get_node_list())
        assert (FOLDER / package.WEB_DIRECTORY / "docs" / f"{made.define_schema().node_id}.md").is_file()
        yield made


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student()


@pytest.fixture(scope="module")
def server(student: Student) -> Iterator[Server]:
    with serving({"tiny": student}) as one:
        yield one


def execute(node: Any, **given: Any) -> tuple[Any, ...]:
    """Run the node as ComfyUI does: every input by its id, defaults where nothing is given."""
    defaults = {one.id: one.default for one in node.define_schema().inputs}
    made: tuple[Any, ...] = node.execute(**defaults | given).args
    return made


def test_the_node_takes_what_its_schema_says(node: Any) -> None:
    schema = node.define_schema()
    assert [one.id for one in schema.inputs] == list(inspect.signature(node.execute).parameters)
    assert [one.id for one in schema.inputs][:6] == ["text", "task", "relevance", "length", "variants", "seed"]
    assert [(one.kind, one.is_output_list) for one in schema.outputs] == [("String", False), ("String", True)]
    page = (FOLDER / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
    assert all(f"**{one.id}**" in page for one in schema.inputs)
    assert all(f"**{one.display_name}**" in page for one in schema.outputs)


def test_the_node_gives_what_the_student_writes(node: Any, server: Server, student: Student) -> None:
    command = Command(TASK, {"length": 9.0})
    expected = [one.completion for one in student.generate([TEXTS[0]] * 3, [command] * 3, seeds=[5, 6, 7])]
    asked = {"text": TEXTS[0], "server": server.url + "/", "length": 9, "seed": 5}
    assert execute(node, **asked, variants=3, task=TASK, student="tiny") == (expected[0], expected)
    assert execute(node, **asked) == (expected[0], expected[:1])
    free = student.generate([TEXTS[0]], [Command(TASK)], seeds=[5])[0].completion
    assert execute(node, text=TEXTS[0], server=server.url, seed=5) == (free, [free])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"relevance": 0.5}, "relevance"),  # a student that cannot be commanded in it
        ({"task": "poem"}, "poem"),
        ({"student": "other"}, "served: tiny"),
        ({"text": " "}, "the input is empty"),
    ],
)
def test_what_the_server_refuses_is_told(node: Any, server: Server, given: dict[str, Any], told: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(told)):
        execute(node, **{"text": "a fox", "server": server.url, **given})


def test_where_there_is_no_server_the_node_says_how_to_start_one(node: Any) -> None:
    with pytest.raises(
        RuntimeError, match=r"there is no udrl serve at http://127.0.0.1:1 .*: start it with udrl serve"
    ):
        execute(node, text="a fox", server="http://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="begins with http://"):
        execute(node, text="a fox", server="file:///etc/passwd")


def test_the_registry_is_told_what_it_asks_for() -> None:
    told = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    assert told["project"]["dependencies"] == []
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["project"]["version"])
    assert {"name", "description", "license", "urls"} <= told["project"].keys()
    assert told["tool"]["comfy"].keys() == {"PublisherId", "DisplayName"}
