"""udrl export: the student in the format of a faster engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from udrl.cli.common import common_options, emit, only_results_on_stdout
from udrl.errors import StudentError

if TYPE_CHECKING:
    from udrl.export.export import ExportReport, Format, Precision


@click.command("export", short_help="Export the student for a faster engine, verified; it then answers on CPUs.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", "gguf", "ctranslate2"]),
    default="onnx",
    show_default=True,
    help="onnx: ONNX Runtime, which then answers here. gguf: llama.cpp and the programs that are built on it. "
    "ctranslate2: CTranslate2.",
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp32"]),
    help="Default: int8, and fp32 as well where int8 does not pass its verification.",
)
@common_options()
def command(*, run: Path, seed: int, format_: Format, precision: Precision | None, as_json: bool) -> None:
    """Write the student into its folder in another format and verify it on the run's validation inputs.

    fp32 must write the same greedy tokens as torch, near ties aside. int8 must be as relevant (within 1 %) and as
    obedient. What passes in ONNX Runtime is used by udrl generate and udrl bench on CPUs, the fastest first; --engine
    chooses another.
    """
    from udrl.export.export import export

    with only_results_on_stdout():
        report = export(run, format=format_, precision=precision, seed=seed)
    emit(report, as_json=as_json, text=describe(report))
    if not report.passed:
        names = " and ".join(one.name for one in report.exports)
        raise StudentError(f"{names} did not pass: {report.default} answers; see what was measured above")


def describe(report: ExportReport) -> str:
    """Return what was exported, for people."""
    lines = []
    for one in report.exports:
        verification = one.verification
        measured = f"{verification.same_tokens:.0%} of {verification.prompts} greedy completions as torch's"
        if verification.near_ties:
            measured += f", {verification.near_ties} more up to a near tie"
        if verification.relevance is not None and verification.spearman is not None:
            followed = ", ".join(f"{name} followed {b:.3f} ({a:.3f})" for name, (a, b) in verification.spearman.items())
            measured += (
                f", relevance {verification.relevance[1]:.3f} (torch {verification.relevance[0]:.3f}), {followed}"
            )
        lines.append(f"{one.name}: {one.bytes / 1e6:.1f} MB in {one.folder}; {measured}")
        if not verification.passed:
            kept = "kept for whoever names it" if one.folder.exists() else "not kept"
            lines.append(f"  {one.name} does not pass and is {kept}: {'; '.join(verification.reasons)}")
    lines.append(f"on CPUs, {report.default} answers from now on (--engine chooses another)")
    return "\n".join(lines)
