"""A stand-in of ComfyUI's ``comfy_api.latest`` as its documentation describes it: what a node of the V3 schema needs.

Schemas keep what they are given, so that a test can read it; an unknown argument is an error, as it is there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass(kw_only=True)
class Input:
    """An input of a node."""

    id: str
    kind: str
    tooltip: str | None = None
    default: Any = None
    multiline: bool = False
    min: float | None = None
    max: float | None = None
    step: float | None = None
    control_after_generate: bool = False


@dataclass(kw_only=True)
class Output:
    """An output of a node."""

    id: str
    kind: str
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False


@dataclass(kw_only=True)
class Schema:
    """What a node is."""

    node_id: str
    display_name: str
    category: str
    description: str = ""
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)


class ComfyNode:
    """The base of nodes; ComfyUI calls the class methods only."""


class ComfyExtension:
    """The base of extensions."""


class NodeOutput:
    """What ``execute`` returns: values in the order of the outputs."""

    def __init__(self, *args: Any) -> None:
        self.args = args


def _kind(name: str) -> Any:
    return SimpleNamespace(
        Input=lambda id, **given: Input(id=id, kind=name, **given),
        Output=lambda id, **given: Output(id=id, kind=name, **given),
    )


def modules() -> dict[str, ModuleType]:
    """Return the modules by the names under which a node imports them."""
    package, latest = ModuleType("comfy_api"), ModuleType("comfy_api.latest")
    kinds = {name: _kind(name) for name in ("String", "Int", "Float")}
    latest.io = SimpleNamespace(Schema=Schema, ComfyNode=ComfyNode, NodeOutput=NodeOutput, **kinds)  # type: ignore[attr-defined]
    latest.ComfyExtension = ComfyExtension  # type: ignore[attr-defined]
    package.latest = latest  # type: ignore[attr-defined]
    assert "comfy_api" not in sys.modules
    return {"comfy_api": package, "comfy_api.latest": latest}
