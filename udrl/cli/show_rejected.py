"""What ``udrl synth --show-rejected`` prints: counts and examples of what cleaning rejected or repaired."""

from __future__ import annotations

from pathlib import Path

from udrl.cli.common import emit, table
from udrl.data.rejections import RejectedReport, rejected
from udrl.data.rules import RULES
from udrl.data.run import Run

_WIDTH = 300


def show(run: Path, rule: str, *, as_json: bool) -> None:
    """Print the run's rejected and repaired responses; nothing is generated or written."""
    report = rejected(Run(run), rule)
    emit(report, as_json=as_json, text=_describe(report))


def _describe(report: RejectedReport) -> str:
    if not report.counts:
        return f"none of {report.total:,} responses was rejected or repaired"
    rows = [
        (name, f"{count:,}", f"{100 * count / report.total:.1f} %", _meaning(name))
        for name, count in report.counts.items()
    ]
    lines = [f"of {report.total:,} responses:", table([("rule", "responses", "share", "what it says"), *rows])]
    for example in report.examples:
        lines.append(f"\n{example.rule}: {example.task}, by {example.teacher}")
        lines.append(f"  input:   {_short(example.input)}")
        if example.written is not None:
            lines.append(f"  written: {_short(example.written)}")
        lines.append(f"  {'kept as:' if example.written is not None else 'written:'} {_short(example.completion)}")
    return "\n".join(lines)


def _meaning(name: str) -> str:
    kind, repaired, rule = name.partition(":")
    return f"repaired: {RULES.get(rule, rule)}" if repaired else RULES.get(kind, "")


def _short(text: str) -> str:
    """Return a text on one line, its middle left out where it is long."""
    text = text.replace("\n", "\\n")
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 100]} [...] {text[-90:]}"
