"""Which module of udrl may import which: at the top, inside functions and for types alike."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

import udrl

ROOT = Path(udrl.__file__).parent

ORDER = """
errors words numerals resources progress
yamlfile config arguments
files forks hub_reach hardware
onnx_graph weights
encoder metrics bootstrap
data
commands text_commands tokenizer
architecture
rewards
decoding
teacher
student
training
export
eval
rounds study
hub doctor demo
serve
cli
"""
"""From the ground up: a module or package imports those of its own line and of the lines above."""

RANKS = {name: rank for rank, line in enumerate(ORDER.strip().splitlines()) for name in line.split()}


@dataclass(frozen=True)
class Import:
    """One name that a module imports. when: at the top, inside a function, or under ``if TYPE_CHECKING``."""

    importer: str
    imported: str
    where: str
    when: Literal["top", "function", "types"]


def module_files() -> dict[str, Path]:
    """Return the files of all modules of udrl by their dotted names."""
    names = {path: ".".join(("udrl", *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items() if "_shipped" not in name}


FILES = module_files()


def imports_of(module: str) -> Iterator[Import]:
    """Yield what ``module`` imports, with ``from package import module`` as the module."""

    def below(node: ast.AST, when: Literal["top", "function", "types"]) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.module, f"{FILES[module]}:{child.lineno}: relative import"
                parts = [f"{child.module}.{alias.name}" for alias in child.names]
                names = [part if part in FILES else child.module for part in parts]
            yield from (Import(module, name, f"{FILES[module]}:{child.lineno}", when) for name in names)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from below(child, "types")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from below(child, "function")
            else:
                yield from below(child, when)

    return below(ast.parse(FILES[module].read_text(encoding="utf-8")), "top")


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return [one for module in FILES if module not in ("udrl", "udrl.__main__") for one in imports_of(module)]


def own(imports: list[Import]) -> list[Import]:
    """Return the imports of udrl's modules; those of the package itself (its version) rest on nothing."""
    return [one for one in imports if one.imported.startswith("udrl.") and "_shipped" not in one.imported]


def top(module: str) -> str:
    return module.split(".")[1]


def test_layers_imports_go_from_the_ground_up(imports: list[Import]) -> None:
    unknown = sorted({top(module) for module in FILES if module not in ("udrl", "udrl.__main__")} - RANKS.keys())
    assert not unknown, f"give each of these a line in ORDER of {__file__}, above all that import it: {unknown}"
    against = [
        f"{one.where}: {top(one.importer)} may not import {one.imported}, which stands above it: move what is needed "
        "down to where both may import it"
        for one in own(imports)
        if RANKS[top(one.imported)] > RANKS[top(one.importer)]
    ]
    assert not against, "\n".join(against)


def test_layers_no_modules_import_each_other_in_a_circle(imports: list[Import]) -> None:
    """Nor inside functions or for types: what two modules need of each other is a third one below both."""
    graph: dict[str, set[str]] = {module: set() for module in FILES}
    for one in own(imports):
        graph[one.importer].add(one.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        steps = {(one.importer, one.imported): one for one in imports}
        told = [steps[edge].where + f" imports {edge[1]}" for edge in pairwise(circle)][::-1]
        pytest.fail("a circle; move what both need into a module below them:\n" + "\n".join(told))


def test_layers_imports_inside_functions_defer_what_is_heavy(imports: list[Import]) -> None:
    """A package of somebody else's that the module itself does not load; commands are all imported for ``--help``."""
    loaded: dict[str, set[str]] = {module: set() for module in FILES}
    for one in imports:
        if one.when == "top":
            loaded[one.importer].add(one.imported)

    def packages(module: str) -> set[str]:
        """Return the packages of others that importing ``module`` loads."""
        seen: set[str] = set()
        ahead = [module]
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead += [*loaded.get(name, ()), *filter(None, [name.rpartition(".")[0]])]
        return {name.split(".")[0] for name in seen} - sys.stdlib_module_names - {"udrl"}

    needless = [
        f"{one.where}: importing {one.imported} here defers nothing: import it at the top"
        for one in own(imports)
        if one.when == "function" and top(one.importer) != "cli" and packages(one.imported) <= packages(one.importer)
    ]
    assert not needless, "\n".join(needless)
