"""``udrl report --compare A B``: one self-contained page about two runs, see ``compare`` for what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from udrl.eval.compare import Benchmark, Difference, compared
from udrl.eval.pages import glossary
from udrl.eval.pages.charts import Estimate, forest_chart
from udrl.eval.pages.comparison_findings import HEADLINE, Finding, findings_of, p_value, signed
from udrl.eval.pages.environment import write_page
from udrl.eval.pages.example_browser import Example, ExampleBrowser, browser_of, examples_of
from udrl.eval.pages.tables import ABSENT, Cell, Row, Table, estimate, number, role_of, size

NAV = {"compare-0": "Differences", "examples": "Examples", "how": "How it was compared"}


@dataclass(frozen=True)
class CompareReport:
    """Where the page is and what it says. differences: benchmark -> subject -> what differs."""

    page: Path
    first: str
    second: str
    findings: tuple[Finding, ...]
    differences: Mapping[str, Mapping[str, tuple[Difference, ...]]]


def compare_report(first: Path | str, second: Path | str, *, output: Path | None = None) -> CompareReport:
    """Write the page that compares two runs (or two folders of benchmarks) and return what it says.

    output: where the page goes (None: ``compare-FIRST.html`` in the second). Raises RunError and UsageError as
    ``compare.compared``.
    """
    paths = Path(first), Path(second)
    names = _names(*paths)
    benchmarks = compared(*paths)
    findings = [one for benchmark in benchmarks for one in findings_of(benchmark, names, several=len(benchmarks) > 1)]
    page = write_page(
        output or paths[1] / f"compare-{paths[0].absolute().name}.html",
        "comparison.html",
        first=names[0],
        second=names[1],
        nav=NAV,
        findings=findings,
        benchmarks=[_section(benchmark, names) for benchmark in benchmarks],
        examples=_examples(benchmarks, names),
        caveats=list(dict.fromkeys(note for benchmark in benchmarks for note in benchmark.notes)),
    )
    return CompareReport(page, *names, tuple(findings), {one.name: one.subjects for one in benchmarks})


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Return the part of each path that tells the two apart."""
    for a, b in zip(reversed(first.absolute().parts), reversed(second.absolute().parts), strict=False):
        if a != b:
            return a, b
    return f"{first.name} (first)", f"{second.name} (second)"


def _section(benchmark: Benchmark, names: tuple[str, str]) -> dict[str, Any]:
    """The leading system with its picture, the others after it, and facts of both runs."""
    subjects = sorted(benchmark.subjects, key=lambda name: name != benchmark.leading)
    whole = {name: [one for one in benchmark.subjects[name] if one.task is None] for name in subjects}
    return {
        "name": benchmark.name,
        "inputs": f"{benchmark.items:,}",
        "chart": _forest(benchmark.subjects[subjects[0]], subjects[0], names) if subjects else None,
        "subjects": [
            {
                "name": name,
                "table": _table(name, benchmark.subjects[name], benchmark.tasks, names),
                "sure": sum(one.sure for one in whole[name]),
                "figures": len(whole[name]),
            }
            for name in subjects
        ],
        "facts": _facts(benchmark, names),
    }


def _forest(rows: Sequence[Difference], subject: str, names: tuple[str, str]) -> Markup | None:
    shown = [one for one in rows if one.figure == HEADLINE]
    if not shown:
        return None
    return forest_chart(
        [Estimate(one.task or "all tasks", one.difference, one.low, one.high, _colour(one)) for one in shown],
        title=f"{subject}: difference of relevance, {names[1]} less {names[0]}",
        axis="difference of relevance",
        line=0.0,
        digits=3,
    )


def _colour(one: Difference) -> str:
    if not one.sure:
        return "baseline"
    return "good" if one.difference > 0 else "bad"


def _table(subject: str, rows: Sequence[Difference], tasks: Sequence[str], names: tuple[str, str]) -> Table:
    by_figure: dict[str, dict[str | None, Difference]] = {}
    for one in rows:
        by_figure.setdefault(one.figure, {})[one.task] = one
    shown: Sequence[str] = tasks if len(tasks) > 1 else ()
    lines = []
    for figure, by_task in by_figure.items():
        whole = by_task[None]
        digits = _digits(figure)
        cells: list[Cell | str] = [number(whole.first, digits), number(whole.second, digits)]
        cells += [_cell(whole), p_value(whole.corrected)]
        cells += [_cell(by_task[task]) if task in by_task else ABSENT for task in shown]
        lines.append(Row(glossary.FIGURE_NAMES.get(figure, figure), cells))
    return Table(f"Differences of {subject}", ["Figure", *names, "Difference", "p", *shown], lines)


def _cell(one: Difference) -> Cell:
    digits = _digits(one.figure)
    return Cell(
        signed(one.difference, digits), (f"{signed(one.low, digits)} to {signed(one.high, digits)}",), sure=one.sure
    )


def _digits(figure: str) -> int:
    return 1 if figure in ("length", "distance from the command, length") else 3


def _facts(benchmark: Benchmark, names: tuple[str, str]) -> Table:
    """Speed, size and diversity of each system in both runs, side by side: they are not of one input."""

    def speed(facts: Mapping[str, Any]) -> str:
        return f"{number(facts['latency_ms']['p50'], 1)} ms" if facts["latency_ms"] else ABSENT

    columns: dict[str, Callable[[Mapping[str, Any]], Cell | str]] = {
        "Latency": speed,
        "Tokens/s": lambda facts: number(facts["tokens_per_second"], 0),
        "Size": lambda facts: size(facts["parameters"]),
        "Distinct‑2": lambda facts: estimate(facts["distinct_2"]),
    }
    return Table(
        "Speed, size and diversity",
        ["System", *(Cell(heading, (name,)) for heading in columns for name in names)],
        [
            Row(system, [of(facts) for of in columns.values() for facts in pair], role_of(pair[1]["kind"]))
            for system, pair in benchmark.facts.items()
        ],
    )


def _examples(benchmarks: Sequence[Benchmark], names: tuple[str, str]) -> ExampleBrowser:
    """The completions of both for each input; where there are several benchmarks, their names are part of the task."""
    examples: list[Example] = []
    systems: dict[str, str] = {}
    for benchmark in benchmarks:
        both = [
            {(e.task, e.input_id): e for e in examples_of(rows, reference=benchmark.reference)}
            for rows in benchmark.rows
        ]
        order = sorted(benchmark.facts, key=lambda name: name != benchmark.leading)
        for system in order:
            for name in reversed(names):
                systems.setdefault(f"{system} of {name}", benchmark.facts[system][1]["kind"])
        for item in both[0]:
            if item in both[1]:
                task = f"{benchmark.name}: {item[0]}" if len(benchmarks) > 1 else item[0]
                merged = Example(task, item[1], both[1][item].input, {})
                for name, by_item in zip(names, both, strict=True):
                    merged.answers |= {f"{s} of {name}": answer for s, answer in by_item[item].answers.items()}
                examples.append(merged)
    leading = benchmarks[0].leading
    return browser_of(
        examples, systems, leading=f"{leading} of {names[1]}", other=f"{leading} of {names[0]}", order="different",
        show="two",
    )  # fmt: skip
