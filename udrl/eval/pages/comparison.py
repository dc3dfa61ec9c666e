"""``udrl report --compare A B``: one self-contained page about two runs, see ``compare`` for what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from udrl import __version__
from udrl.data.run import atomic_write
from udrl.eval.compare import Benchmark, Difference, compared
from udrl.eval.pages import glossary
from udrl.eval.pages.benchmark_systems import size
from udrl.eval.pages.charts import Estimate, forest_chart
from udrl.eval.pages.example_browser import Example, examples_of, examples_section
from udrl.eval.pages.markup import ABSENT, below, estimate, finding, number, page, page_file, row_of, table_of

NAV = (("compare-0", "Differences"), ("examples", "Examples"), ("how", "How it was compared"))
_HEADLINE = "relevance"


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict. passed: None where the second run is neither shown to be better nor worse."""

    sentence: str
    detail: str
    passed: bool | None
    against: tuple[str, ...] = ()


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
    found = compared(*paths)
    findings = [finding for benchmark in found for finding in _findings(benchmark, names, several=len(found) > 1)]
    path = output or paths[1] / f"compare-{paths[0].absolute().name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, render(found, findings, names))
    return CompareReport(path, *names, tuple(findings), {one.name: one.subjects for one in found})


def render(found: Sequence[Benchmark], findings: Sequence[Finding], names: tuple[str, str]) -> str:
    """Return the page; names: what the two runs are called on it."""
    first, second = names
    examples, data = _examples(found, names)
    body = [_section(n, benchmark, names) for n, benchmark in enumerate(found)]
    body += [examples, _how(found)]
    return page(
        title=f"{second} compared with {first}",
        description=(
            "Two runs on the same inputs. Every difference is the second less the first, "
            f"{second} less {first}, of the two completions for one input."
        ),
        nav=NAV,
        verdict=(finding(f.passed, f.sentence, f.detail, f.against, "Keep in mind:") for f in findings),
        body="\n".join(body),
        footer=f"Made by udrl {__version__} with udrl report --compare. This page needs no network.",
        data=data,
        script=page_file("examples.js"),
    )


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Return the part of each path that tells the two apart."""
    for a, b in zip(reversed(first.absolute().parts), reversed(second.absolute().parts), strict=False):
        if a != b:
            return a, b
    return f"{first.name} (first)", f"{second.name} (second)"


def _findings(benchmark: Benchmark, names: tuple[str, str], *, several: bool) -> list[Finding]:
    first, second = names
    where = f"{benchmark.name}: " if several else ""
    found = []
    own = {one.figure: one for one in benchmark.subjects.get(benchmark.leading, ()) if one.task is None}
    if gap := own.get(_HEADLINE):
        said = "more" if gap.difference > 0 else "less"
        sentence = f"{where}{benchmark.leading} of {second} is {said} relevant than that of {first}: {_said(gap)}."
        if not gap.sure:
            sentence = f"{where}No difference in the relevance of {benchmark.leading} is shown: {_said(gap)}."
        found.append(Finding(sentence, _detail(gap), (gap.difference > 0) if gap.sure else None, _against(own, second)))
    else:
        found.append(Finding(f"{where}Relevance is not compared.", " ".join(benchmark.notes), None))
    for subject, differences in benchmark.subjects.items():
        for one in differences:
            if one.task is None and one.figure.startswith("rank correlation, ") and one.sure:
                how = "better" if one.difference > 0 else "worse"
                name = one.figure.partition(", ")[2]
                student = subject.removesuffix(" under commands")
                found.append(
                    Finding(
                        f"{where}{student} of {second} follows commands for {name} {how}: {_said(one)}.",
                        f"Rank correlation within an input. {_detail(one)}",
                        one.difference > 0,
                    )
                )
    if benchmark.only_first or benchmark.only_second:
        alone = f"{benchmark.only_first:,} and {benchmark.only_second:,} inputs that only one of them has are left out."
        found.append(Finding(f"{where}{benchmark.items:,} inputs are in both runs.", alone, None))
    return found


def _against(own: Mapping[str, Difference], second: str) -> tuple[str, ...]:
    found = []
    for figure, digits, more, less in (
        ("length", 1, "longer, and short completions look more relevant", "shorter, and those look more relevant"),
        ("copy_rate", 2, "more copied from the input", "less copied from the input"),
        ("distinct_2 of one input", 2, "more diverse for one input", "less diverse for one input"),
    ):
        gap = own.get(figure)
        if gap is not None and gap.sure:
            how = more if gap.difference > 0 else less
            found.append(
                f"completions of {second} are {how}: {number(gap.second, digits)} against {number(gap.first, digits)}"
            )
    return tuple(found)


def _said(gap: Difference) -> str:
    return f"{_signed(gap.difference)} [{_signed(gap.low)}, {_signed(gap.high)}]"


def _detail(gap: Difference) -> str:
    return (
        f"{number(gap.second, 3)} against {number(gap.first, 3)} over {gap.items:,} inputs; p {_p(gap.corrected)} "
        "after correction. In brackets the 95 % interval of the difference."
    )


def _section(n: int, benchmark: Benchmark, names: tuple[str, str]) -> str:
    subjects = sorted(benchmark.subjects, key=lambda name: name != benchmark.leading)
    parts = [f'<section id="compare-{n}"><h2>{escape(benchmark.name)}: {benchmark.items:,} inputs in both</h2>']
    parts.append(f"<p>{glossary.COMPARE}</p>")
    for place, subject in enumerate(subjects):
        rows = benchmark.subjects[subject]
        table = _table(subject, rows, benchmark.tasks, names)
        if place == 0:
            parts.append(f"<h3>{escape(subject)}</h3>{_forest(rows, subject, names)}{table}")
        else:
            sure = sum(one.sure for one in rows if one.task is None)
            said = f"{sure} of {sum(one.task is None for one in rows)} figures differ"
            parts.append(f"<details><summary>{escape(subject)}: {said}</summary>{table}</details>")
    return "".join(parts) + _facts(benchmark, names) + "</section>"


def _forest(rows: Sequence[Difference], subject: str, names: tuple[str, str]) -> str:
    shown = [one for one in rows if one.figure == _HEADLINE]
    if not shown:
        return ""
    chart = forest_chart(
        [Estimate(one.task or "all tasks", one.difference, one.low, one.high, _colour(one)) for one in shown],
        title=f"{subject}: difference of relevance, {names[1]} less {names[0]}",
        axis="difference of relevance",
        line=0.0,
        digits=3,
    )
    return f'<div class="charts"><figure>{chart}<figcaption>{glossary.COLOURS}</figcaption></figure></div>'


def _colour(one: Difference) -> str:
    if not one.sure:
        return "baseline"
    return "good" if one.difference > 0 else "bad"


def _table(subject: str, rows: Sequence[Difference], tasks: Sequence[str], names: tuple[str, str]) -> str:
    by_figure: dict[str, dict[str | None, Difference]] = {}
    for one in rows:
        by_figure.setdefault(one.figure, {})[one.task] = one
    shown: Sequence[str] = tasks if len(tasks) > 1 else ()
    head = ["Figure", *map(escape, names), "Difference", "p", *map(escape, shown)]
    lines = []
    for figure, own in by_figure.items():
        whole = own[None]
        digits = _digits(figure)
        cells = [number(whole.first, digits), number(whole.second, digits), _cell(whole), escape(_p(whole.corrected))]
        cells += [_cell(own[task]) if task in own else ABSENT for task in shown]
        lines.append(row_of(escape(glossary.FIGURE_NAMES.get(figure, figure)), cells))
    return table_of(f"Differences of {subject}", head, lines)


def _cell(one: Difference) -> str:
    digits = _digits(one.figure)
    said = _signed(one.difference, digits)
    marked = f'<strong class="sure">{said}*</strong>' if one.sure else said
    return marked + below(f"{_signed(one.low, digits)} to {_signed(one.high, digits)}")


def _digits(figure: str) -> int:
    return 1 if figure in ("length", "distance from the command, length") else 3


def _signed(value: float, digits: int = 3) -> str:
    return ("+" if round(value, digits) > 0 else "") + number(value, digits)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _facts(benchmark: Benchmark, names: tuple[str, str]) -> str:
    """Speed, size and agreement of each system in both runs, side by side: they are not of one input."""

    def speed(own: Mapping[str, Any]) -> str:
        return f"{number(own['latency_ms']['p50'], 1)} ms" if own["latency_ms"] else ABSENT

    columns = (
        ("Latency", speed),
        ("Tokens/s", lambda own: number(own["tokens_per_second"], 0)),
        ("Size", lambda own: size(own["parameters"])),
        ("Distinct‑2", lambda own: estimate(own["distinct_2"])),
    )
    rows = []
    for system, pair in benchmark.facts.items():
        cells = [of(own) for _, of in columns for own in pair]
        rows.append(row_of(escape(system), cells, pair[1]["kind"]))
    head = [
        "System",
        *(f'{heading}<span class="kind">{escape(name)}</span>' for heading, _ in columns for name in names),
    ]
    return (
        f"<details><summary>Speed, size and diversity</summary><p>{glossary.SIDE_BY_SIDE}</p>"
        f"{table_of('Speed, size and diversity', head, rows)}</details>"
    )


def _examples(found: Sequence[Benchmark], names: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """The completions of both for each input; where there are several benchmarks, their names are part of the task."""
    examples: list[Example] = []
    systems: dict[str, str] = {}
    for benchmark in found:
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
                task = f"{benchmark.name}: {item[0]}" if len(found) > 1 else item[0]
                merged = Example(task, item[1], both[1][item].input, {})
                for name, own in zip(names, both, strict=True):
                    merged.answers |= {f"{s} of {name}": answer for s, answer in own[item].answers.items()}
                examples.append(merged)
    leading = found[0].leading
    return examples_section(
        examples, systems, leading=f"{leading} of {names[1]}", other=f"{leading} of {names[0]}", order="different",
        show="two",
    )  # fmt: skip


def _how(found: Sequence[Benchmark]) -> str:
    notes = [note for benchmark in found for note in benchmark.notes]
    listed = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return (
        f'<section id="how"><h2>How it was compared</h2><p class="small">{glossary.COMPARED}</p>'
        f'<ul class="small">{listed}</ul></section>'
    )
