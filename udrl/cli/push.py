"""udrl push: episodes or a student to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click

from udrl.cli.common import common_options, emit, only_results_on_stdout


@click.command("push", short_help="Send the episodes, or the student, to the Hugging Face hub.")
@click.option("--dataset", "kind", flag_value="dataset", help="Send the episodes.")
@click.option("--student", "kind", flag_value="model", help="Send the student.")
@click.option("--repo", metavar="[ORG/]NAME", help="Where to. Default: udrl- and the run's name, in your account.")
@click.option(
    "--private/--public",
    default=True,
    show_default=True,
    help="Who sees a new repository. Without --public nothing is sent to a public one.",
)
@click.option("--rejected", is_flag=True, help="Send episodes that a rule rejected, too.")
@click.option(
    "--accept-licence",
    is_flag=True,
    help="The limits that the teachers' licences set on their outputs are known and kept.",
)
@common_options(seed=False)
def command(
    *,
    run: Path,
    kind: str | None,
    repo: str | None,
    private: bool,
    rejected: bool,
    accept_licence: bool,
    as_json: bool,
) -> None:
    """Send the run's episodes with their card, or its student with its card, to the Hugging Face hub.

    The token is read from HF_TOKEN in the environment. A new repository is private unless --public is given.
    """
    from udrl.hub import push

    if kind is None:
        raise click.UsageError("say what to send: --dataset or --student")
    with only_results_on_stdout():
        report = push(
            run,
            kind="model" if kind == "model" else "dataset",
            repo=repo,
            private=private,
            rejected=rejected,
            accept_licence=accept_licence,
        )
    what = "the student" if report.episodes is None else f"{report.episodes:,} episodes"
    seen = "private" if report.private else "public"
    emit(report, as_json=as_json, text=f"{what} sent to {report.url} ({len(report.files)} files, {seen})")
