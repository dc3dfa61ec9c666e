"""udrl score: (re)labels what teachers wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from udrl.cli.common import (
    common_options,
    emit,
    hygiene,
    hygiene_options,
    next_of_episodes,
    only_results_on_stdout,
    said_of_hygiene,
)
from udrl.cli.numbers import Real

if TYPE_CHECKING:
    from udrl.data.pii import PiiMode
    from udrl.rewards.scoring import ScoreReport


@click.command("score", short_help="(Re)label the ledger's responses; never generates again.")
@click.option(
    "--reward",
    "rewards",
    metavar="NAME|MODULE:FUNCTION",
    multiple=True,
    help="Repeatable: relevance, novelty, accuracy, format, cosine_length, constraints, one that an installed package "
    "provides, or a function of your own. Default: what the run's tasks name, else relevance.",
)
@click.option(
    "--reward-field",
    "reward_fields",
    metavar="NAME[=LOW:HIGH[:UNIT]]",
    multiple=True,
    help="Repeatable: a column of your own as a reward, with its range (default: what is found) and unit.",
)
@click.option(
    "--reward-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Table with input, completion and the reward fields (.jsonl, .json, .csv, .tsv, .parquet). "
    "Default: the ledger.",
)
@click.option(
    "--answers",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Table with the columns input and answer: what accuracy compares with. Kept in the run.",
)
@click.option("--encoder", metavar="NAME|PATH", help="What relevance is computed with.  [default: all-MiniLM-L6-v2]")
@click.option(
    "--mismatched",
    metavar="N",
    type=Real(0, 16),
    help="Episodes to derive from a response: with another input's completion.  [default: 0.1]",
)
@click.option(
    "--truncated",
    metavar="N",
    type=Real(0, 16),
    help="Likewise: that end behind an earlier sentence or clause.  [default: 0.1]",
)
@click.option(
    "--spliced",
    metavar="N",
    type=Real(0, 16),
    help="Likewise: with a share of their own sentences, the rest another input's.  [default: 0.1]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp32-onnx", "bf16"]),
    default="auto",
    show_default=True,
    help="Of the encoder. auto: bf16 where the hardware has it, else fp32-onnx where installed, else fp32.",
)
@click.option("--exact", is_flag=True, help="Encode in fp32, as the benchmark does: short for --precision fp32.")
@hygiene_options
@common_options(default_seed=None)
def command(
    *,
    run: Path,
    seed: int | None,
    rewards: tuple[str, ...],
    reward_fields: tuple[str, ...],
    reward_file: Path | None,
    answers: Path | None,
    encoder: str | None,
    mismatched: float | None,
    truncated: float | None,
    spliced: float | None,
    device: str,
    precision: str,
    exact: bool,
    suites: tuple[str, ...],
    no_decontaminate: bool,
    pii: PiiMode | None,
    as_json: bool,
) -> None:
    """Build the run's episodes anew from its ledger, with these rewards. Nothing is generated again.

    The old episodes are replaced at once, when the new ones are complete.
    """
    from udrl.rewards.scoring import score

    if exact and precision not in ("auto", "fp32"):
        raise click.UsageError(f"--exact encodes in fp32: leave --precision {precision} out")
    given = {"encoder": encoder, "mismatched": mismatched, "truncated": truncated, "spliced": spliced}
    with only_results_on_stdout():
        report = score(
            run,
            rewards=rewards or None,
            reward_fields=reward_fields,
            reward_file=reward_file,
            answers=answers,
            seed=seed,
            device=device,
            precision="fp32" if exact else precision,
            hygiene=hygiene(suites, no_decontaminate, pii),
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
    emit(report, as_json=as_json, text=describe(report))


def describe(report: ScoreReport) -> str:
    """Return what a scoring did, for people."""
    lines = [f"{report.episodes.get('total', 0):,} episodes in {report.run / 'episodes'}, {report.seconds:,.0f} s"]
    for fact in report.rewards:
        lines.append(f"{fact.name} [{fact.low:g}, {fact.high:g}]: mean {_means(report.means.get(fact.name, {}))}")
        if report.canaries.get(fact.name):
            lines.append(f"  for what deserves nothing: {_means(report.canaries[fact.name])}")
        spread = report.within_inputs.get(fact.name)
        if spread is not None and spread.overall is not None:
            lines.append(f"  {spread.overall:.0%} of its variance lies within inputs{_derived(report, fact.name)}")
        if missing := report.unscored.get(fact.name):
            lines.append(f"  {missing:,} episodes have no value")
    lines += said_of_hygiene(report.hygiene)
    if report.truncated:
        lines.append(f"{report.truncated:,} texts were longer than the encoder reads")
    if report.unknown:
        lines.append(f"{report.unknown:,} texts are in a script that the encoder does not know: they are not scored")
    lines.append(next_of_episodes(report.run))
    return "\n".join(lines)


def _derived(report: ScoreReport, name: str) -> str:
    """Return what derived episodes make of the share of the variance within inputs; nothing where there are none."""
    shares = {kind: spread.overall for kind, spread in report.with_derived[name].items()}
    told = [
        f"{share:.0%} with {'all derived episodes' if kind == 'all' else f'{kind} ones'}"
        for kind, share in shares.items()
        if share is not None and (kind == "all" or report.episodes.get(kind)) and kind != "teacher"
    ]
    return f" ({', '.join(told)})" if len(told) > 1 else ""


def _means(values: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.3f} ({name})" for name, value in values.items())
