"""The sentences on top of the page that compares two runs: what differs, and what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from udrl.eval.compare import Benchmark, Difference
from udrl.eval.pages.tables import number

HEADLINE = "relevance"
"""The figure that the comparison is about first of all."""


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict. passed: None where the second run is neither shown to be better nor worse."""

    sentence: str
    detail: str
    passed: bool | None
    against: tuple[str, ...] = ()


def findings_of(benchmark: Benchmark, names: tuple[str, str], *, several: bool) -> list[Finding]:
    """Return what the leading system's relevance and the students' obedience say of one benchmark.

    names: what the two runs are called; several: whether there are other benchmarks, so that its name must be said.
    """
    first, second = names
    where = f"{benchmark.name}: " if several else ""
    findings = []
    by_figure = {one.figure: one for one in benchmark.subjects.get(benchmark.leading, ()) if one.task is None}
    if gap := by_figure.get(HEADLINE):
        said = "more" if gap.difference > 0 else "less"
        sentence = f"{where}{benchmark.leading} of {second} is {said} relevant than that of {first}: {_said(gap)}."
        if not gap.sure:
            sentence = f"{where}No difference in the relevance of {benchmark.leading} is shown: {_said(gap)}."
        findings.append(
            Finding(sentence, _detail(gap), (gap.difference > 0) if gap.sure else None, _against(by_figure, second))
        )
    else:
        findings.append(Finding(f"{where}Relevance is not compared.", " ".join(benchmark.notes), None))
    for subject, differences in benchmark.subjects.items():
        for one in differences:
            if one.task is None and one.figure.startswith("rank correlation, ") and one.sure:
                how = "better" if one.difference > 0 else "worse"
                name = one.figure.partition(", ")[2]
                student = subject.removesuffix(" under commands")
                findings.append(
                    Finding(
                        f"{where}{student} of {second} follows commands for {name} {how}: {_said(one)}.",
                        f"Rank correlation within an input. {_detail(one)}",
                        one.difference > 0,
                    )
                )
    if benchmark.only_first or benchmark.only_second:
        alone = f"{benchmark.only_first:,} and {benchmark.only_second:,} inputs that only one of them has are left out."
        findings.append(Finding(f"{where}{benchmark.items:,} inputs are in both runs.", alone, None))
    return findings


def _against(by_figure: Mapping[str, Difference], second: str) -> tuple[str, ...]:
    against = []
    for figure, digits, more, less in (
        ("length", 1, "longer, and short completions look more relevant", "shorter, and those look more relevant"),
        ("copy_rate", 2, "more copied from the input", "less copied from the input"),
        ("distinct_2 of one input", 2, "more diverse for one input", "less diverse for one input"),
    ):
        gap = by_figure.get(figure)
        if gap is not None and gap.sure:
            how = more if gap.difference > 0 else less
            against.append(
                f"completions of {second} are {how}: {number(gap.second, digits)} against {number(gap.first, digits)}"
            )
    return tuple(against)


def _said(gap: Difference) -> str:
    return f"{signed(gap.difference)} [{signed(gap.low)}, {signed(gap.high)}]"


def _detail(gap: Difference) -> str:
    return (
        f"{number(gap.second, 3)} against {number(gap.first, 3)} over {gap.items:,} inputs; p {p_value(gap.corrected)} "
        "after correction. In brackets the 95 % interval of the difference."
    )


def signed(value: float, digits: int = 3) -> str:
    """Return a difference with its sign."""
    return ("+" if round(value, digits) > 0 else "") + number(value, digits)


def p_value(value: float) -> str:
    """Return a p-value as text."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
