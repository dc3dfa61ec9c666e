"""Students as tools of the Model Context Protocol, for assistants that start a program and speak with it by pipes.

A call becomes what `udrl.serve.fields` reads, so that commands, limits and errors are those of the API.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from udrl import __version__
from udrl.errors import MissingDependency, UdrlError, UsageError, is_installed, suggestion
from udrl.serve import values
from udrl.serve.fields import read_ask, unknown_model
from udrl.serve.options import ServeOptions
from udrl.serve.plan import make_plan
from udrl.serve.served import Served
from udrl.serve.server import load_students, start_students
from udrl.serve.shapes import Shapes, as_json
from udrl.serve.writing import Writing
from udrl.student.student import Student

NUMBER_OR_AUTO = {"anyOf": [{"type": "number"}, {"const": "auto"}]}
COMMANDS = ("task", "relevance", "length", "target", "seed")
"""Arguments of ``rewrite`` that are fields of the API by the same name."""


class Tools:
    """What assistants can call: what it is called, what it takes, and the call."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        """served: students by the names that assistants ask for."""
        self.served = served
        self.scoring = ThreadPoolExecutor(1, thread_name_prefix="udrl-scorer")
        tasks = sorted({task for one in served.values() for task in one.student.tasks})
        student = {
            "type": "string",
            "enum": list(served),
            "description": "Which student; needed where there are several.",
        }
        task = {"type": "string", "enum": tasks, "description": "Needed where the student knows several."}
        self.schemas: dict[str, tuple[str, dict[str, Any]]] = {
            "rewrite": (
                "Let a small model write for an input, under a command: how relevant to it and how long. The answer "
                "says what was reached, and what could not be.",
                {
                    "text": {"type": "string", "description": "The input."},
                    "task": task,
                    "relevance": {**NUMBER_OR_AUTO, "description": "0 to 1; auto: as high as the student reaches."},
                    "length": {"type": "number", "description": "Words."},
                    "target": {"type": "object", "additionalProperties": NUMBER_OR_AUTO,
                               "description": "Other attributes of the student, by name."},
                    "variants": {"type": "integer", "minimum": 1, "description": "How many texts; 1 if left out."},
                    "seed": {"type": "integer", "minimum": 0, "description": "Gives the same texts again."},
                    "student": student,
                },
            ),
            "reachable": (
                "Tell the lowest and highest value of each attribute that a student reaches in a task, at a length.",
                {"task": task, "length": {"type": "number", "description": "Words."}, "student": student},
            ),
            "students": ("List the students: their tasks, attributes and what they reach.", {}),
        }  # fmt: skip

    async def call(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the tool ``name`` gives for ``given``; raises UdrlError where it cannot."""
        known = self.schemas[name][1]
        given = {key: value for key, value in given.items() if value is not None}
        for key in given:
            if key not in known:
                raise UsageError(f"{name} takes no '{key[:60]}'{suggestion(key[:60], known)}")
        if name == "rewrite":
            return await self._rewrite(given)
        return self._reachable(given) if name == "reachable" else self._students()

    async def _rewrite(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if "text" not in given:
            raise UsageError("'text' is missing: it is the input that is written for")
        fields = {key: given[key] for key in COMMANDS if key in given}
        if "variants" in given:
            fields["n"] = values.number(given, "variants", whole=True, as_="num")
        fields |= {"prompt": values.checked_text("text", given["text"]), "model": self._student(given).name}
        ask = read_ask(fields, "completions", list(self.served))
        plan = make_plan(ask, self.served[ask.student])
        shapes = Shapes(plan)
        done = await Writing(plan, self.scoring).answers()
        return {
            "student": ask.student,
            "variants": [{"text": one.answer.completion, "finish_reason": one.answer.finish_reason, **shapes.block(one)}
                         for one in done],
        }  # fmt: skip

    def _reachable(self, given: Mapping[str, Any]) -> dict[str, Any]:
        length = values.number(given, "length", whole=False) if "length" in given else None
        one = self._student(given)
        return {"student": one.name, **one.reachable_at(values.text(given, "task"), length)}

    def _students(self) -> dict[str, Any]:
        return {"students": [{"student": one.name, **one.card["udrl"]} for one in self.served.values()]}

    def _student(self, given: Mapping[str, Any]) -> Served:
        """Return the student that is named, or the only one."""
        name = values.text(given, "student")
        if name is None and len(self.served) == 1:
            return next(iter(self.served.values()))
        if name is None:
            raise UsageError(f"'student' is missing: one of {', '.join(self.served)}")
        if name not in self.served:
            raise unknown_model(name, list(self.served))
        return self.served[name]


def serve_mcp(options: ServeOptions) -> None:
    """Answer calls on standard input until it ends. Raises MissingDependency without the extra ``mcp``, and what
    `load_student` raises.
    """
    if not is_installed("mcp"):
        raise MissingDependency("udrl mcp needs the package mcp: pip install 'udrl[mcp]'")
    asyncio.run(_serve(options, load_students(options)))


async def _serve(options: ServeOptions, loaded: dict[str, Student]) -> None:
    from mcp.server.stdio import stdio_server

    served = start_students(options, loaded)
    server = mcp_server(Tools(served))
    try:
        async with stdio_server() as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options())
    finally:
        for one in served.values():
            one.worker.close()


def mcp_server(tools: Tools) -> Any:
    """Return the SDK's server of ``tools``. What a tool cannot do is told in its result, where a model reads it."""
    from mcp import MCPError, types
    from mcp.server import Server

    async def listed(_: Any, __: Any) -> Any:
        return types.ListToolsResult(
            tools=[
                types.Tool(name=name, description=told, input_schema=_schema(fields))
                for name, (told, fields) in tools.schemas.items()
            ]
        )

    async def called(_: Any, params: Any) -> Any:
        if params.name not in tools.schemas:
            raise MCPError(code=types.INVALID_PARAMS, message=f"there is no tool '{params.name[:60]}'")
        try:
            answer = await tools.call(params.name, params.arguments or {})
        except UdrlError as error:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(error))], is_error=True)
        text = as_json(answer).decode()
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=answer)

    return Server("udrl", version=__version__, on_list_tools=listed, on_call_tool=called)


def _schema(fields: Mapping[str, Any]) -> dict[str, Any]:
    required = {"required": ["text"]} if "text" in fields else {}
    return {"type": "object", "properties": dict(fields), "additionalProperties": False, **required}
