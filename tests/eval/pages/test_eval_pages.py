"""Whatever a text holds, it stays text on every page: what goes into templates, and what goes into pictures."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from report_fakes import JUDGE, inputs, made

from udrl.data.facts import SynthFacts
from udrl.data.hygiene import Hygiene
from udrl.data.run import Run
from udrl.eval.benchmark_files import read_benchmark
from udrl.eval.pages import benchmark, comparison, episodes
from udrl.eval.pages.charts import (
    Bars,
    Estimate,
    Point,
    curve_chart,
    forest_chart,
    histogram_chart,
    scatter_chart,
)
from udrl.eval.pages.environment import page_of
from udrl.teacher.synthesis.synth import synth

MARKS = (
    "<script>alert(1)</script>",
    '"onload="alert(1)',
    "' onclick='alert(1)",
    "&lt;b&gt;&amp;",
    "</style><u>",
    "</script><s>",
    "{{ 7*7 }}{%raw%}{#",
    "]]><![CDATA[",
    "<!--<script>",
    "javascript:alert(1)",
    "<img src=x>",
    "#010101;x",
)
"""Each would be more than text in one of the places that a page has; the last is the stand-in of a colour."""

MARKED = range(1, len(MARKS) + 1)
TASKS = ("alpha", "beta", "gamma")
Values = Mapping[str, Any]


class Page(HTMLParser):
    """tags: every tag with the names of its attributes, in order; texts and attributes: as a reader meets them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [value or "" for _, value in attrs]
        self.addresses += [value or "" for name, value in attrs if name.rpartition(":")[2] in ("src", "href", "action")]

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def said(self) -> str:
        return "\n".join([*self.texts, *self.attributes])


class Renamed:
    """Gives every text of what a page is made of another one that holds markup (or, ``plain``, as many letters).

    Every text has a number of its own, by which it is found again; ``paths`` says where it was.
    """

    def __init__(self, *, plain: bool, first: int = 0) -> None:
        self.plain, self.first = plain, first
        self.paths: dict[str, str] = {}

    def text(self, path: str) -> str:
        mark = MARKS[(self.first + len(self.paths)) % len(MARKS)]
        made = f"{'w' * len(mark) if self.plain else mark}~{len(self.paths)}~"
        self.paths[made] = path
        return made

    def all(self, value: Any, path: str = "") -> Any:
        if isinstance(value, Markup) or path.rpartition(".")[2] == "role":
            return value
        if isinstance(value, str):
            return self.text(path)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **{n: self.all(part, f"{path}.{n}") for n, part in fields.items()})
        if isinstance(value, Mapping):
            named = path in (".examples.tasks", ".rejected.examples")  # keys that are shown
            return {
                self.text(path) if named else key: self.all(part, f"{path}.{'*' if named else key}")
                for key, part in value.items()
            }
        if path.endswith((".legend", ".origins")) and isinstance(value, tuple):
            return (value[0], self.text(path))  # role, meaning
        if isinstance(value, (list, tuple)):
            return type(value)(self.all(part, path) for part in value)
        return value


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, seed in (("first", 0), ("second", 1)):
        run = Run(folder / name)
        with run.writing():
            run.record(SynthFacts(seed=seed))
        made(run.bench("suite"), inputs(TASKS, 6), seed=seed, judge=JUDGE, samples=1)
    return folder / "first", folder / "second"


@pytest.fixture(scope="module")
def episodes_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded outputs with markup in inputs, outputs, and names of models; one is refused, one is repaired."""
    folder = tmp_path_factory.mktemp("pages")
    rows = [
        {
            "task": "image" if n % 2 else "video",
            "input": f"fox {n} {MARKS[n % len(MARKS)]} in snow",
            "output": f"{'very ' * (n % 7)}red {MARKS[n % len(MARKS)]} in the morning light of day {n}",
            "model": f"m {MARKS[n % len(MARKS)]}",
            "licence": "mit",
        }
        for n in range(48)
    ]
    rows[0]["output"] = f"I'm sorry, but I can't help with that. {MARKS[0]}"
    rows[1]["output"] = "Here is your prompt:\n\na red fox in the snow at dawn, seen from below"
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = folder / "<script>x"
    synth(run, teacher=f"recorded:{folder / 'said.jsonl'}", rewards=("novelty",), hygiene=Hygiene(suites=()))
    return run


def following_rows() -> list[dict[str, Any]]:
    shared = {"part": "following", "attribute": "relevance", "system": "student", "task": "alpha", "input_id": "x"}
    return [
        {**shared, "input": "i", "sample": 0, "level": n, "targets": '{"relevance": 0.5}', "completion": "c"}
        for n in range(9)
    ]


@pytest.fixture(scope="module")
def pages(runs: tuple[Path, Path], episodes_run: Path) -> dict[str, Values]:
    """Template -> what it is rendered with."""
    caught: dict[str, Values] = {}

    def catch(template: str, **values: Any) -> str:
        caught[template] = values
        return ""

    def catch_written(path: Path, template: str, **values: Any) -> Path:
        catch(template, **values)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "page_of", catch)
        patch.setattr(comparison, "write_page", catch_written)
        patch.setattr(episodes, "write_page", catch_written)
        figures, rows, about = read_benchmark(runs[0] / "bench" / "suite")
        benchmark.render(figures, [*rows, *following_rows()], about)
        comparison.compare_report(*runs)
        episodes.episodes_report(episodes_run)
    return caught


@pytest.mark.parametrize("template", ["benchmark.html", "comparison.html", "episodes.html"])
def test_pages_show_markup_in_every_field_as_text(pages: dict[str, Values], template: str) -> None:
    hostile, plain = Renamed(plain=False), Renamed(plain=True)
    values = hostile.all(pages[template])
    page = Page(page_of(template, **values))
    # Nothing but text differs from the page of letters: no tag, and no attribute.
    assert page.tags == Page(page_of(template, **plain.all(pages[template]))).tags
    assert not [name for _, names in page.tags for name in names if name.startswith("on")]
    assert [address for address in page.addresses if not address.startswith("#")] == ["data:,"]
    if template != "episodes.html":
        [script] = [text for text in page.texts if text.startswith('{"')]
        assert json.loads(script) == values["examples"].data
        assert not re.search(r"[<>&\u2028]", script)
    unseen = {path for text, path in hostile.paths.items() if text not in page.said}
    assert {path for path in unseen if not path.startswith((".examples.data.", ".verdict.tasks"))} == set()


def test_pages_are_refused_where_a_field_is_missing(pages: dict[str, Values]) -> None:
    values = dict(pages["comparison.html"])
    del values["caveats"]
    with pytest.raises(UndefinedError, match="'caveats' is undefined"):
        page_of("comparison.html", **values)


def of_texts(function: Callable[..., Markup], renamed: Renamed, *given: Any, **options: Any) -> Page:
    """What a chart is with markup in every parameter that is a text."""
    parameters = inspect.signature(function).parameters.values()
    texts = {one.name: renamed.text(one.name) for one in parameters if one.annotation == "str"}
    svg = function(*renamed.all(given), **texts, **options)
    assert isinstance(svg, Markup)
    ElementTree.fromstring(svg)
    return Page(svg)


CHARTS: tuple[Callable[[Renamed], Page], ...] = (
    lambda r: of_texts(curve_chart, r, [[0.1, 0.1, 0.0, 0.2], [0.5, 0.4, 0.3, 0.5]], reachable=(0.1, 0.9)),
    lambda r: of_texts(
        forest_chart, r, [Estimate("", 0.9 + n / 99, 0.8, 1.1, "student") for n in MARKED], line=1.0, bound=0.95
    ),
    lambda r: of_texts(scatter_chart, r, [Point("", "", n, n % 4, n % 4, n % 4 + 1, "student") for n in MARKED]),
    lambda r: of_texts(histogram_chart, r, [0, 1, 2], [Bars("", [1, 2], "student") for _ in MARKED]),
)


@pytest.mark.parametrize("chart", CHARTS, ids=["curve", "forest", "scatter", "histogram"])
def test_pictures_show_markup_in_every_name_as_text(chart: Callable[[Renamed], Page]) -> None:
    for first in range(0, len(MARKS), 3):  # so that each mark stands in each field once
        renamed = Renamed(plain=False, first=first)
        page = chart(renamed)
        assert page.tags == chart(Renamed(plain=True, first=first)).tags
        assert {path for text, path in renamed.paths.items() if text not in page.said} <= {".name"}  # of a point


def strings(tree: ast.AST) -> Iterator[str]:
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_module_writes_html_and_no_template_lets_it_through() -> None:
    """Only two modules say of a text that it is markup: the pages' own files, and pictures."""
    package = Path(benchmark.__file__).parents[2]
    marking = {"environment.py", "svg.py"}
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if (
            path.name in marking and path.parent.name == "pages"
        ) or path.name == "thoughts.py":  # it reads models' marks
            continue
        assert not re.search(r"\bMarkup\(|html import escape|import html\b", source), path
        tags = (
            r"</?(?:html|body|div|p|span|table|tr|td|th|ul|ol|li|h[1-6]|section|figure|details|a|em|strong|style)[ >]"
        )
        assert not [text for text in strings(ast.parse(source)) if re.search(tags, text)], path
    for path in (package / "eval" / "pages" / "templates").iterdir():
        assert not re.search(r"\|\s*safe|autoescape", path.read_text(encoding="utf-8")), path
