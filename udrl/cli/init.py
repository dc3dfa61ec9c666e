"""udrl init: copies what ships and may be edited."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import click

from udrl import resources
from udrl.cli.common import common_options, emit
from udrl.errors import UsageError

KINDS: tuple[resources.Kind, ...] = ("teacher", "data", "eval")


@dataclass(frozen=True)
class InitReport:
    """What was copied: ``files`` lie under ``folder``."""

    folder: Path
    files: tuple[Path, ...]


def init(folder: Path, *, force: bool = False) -> InitReport:
    """Copy the shipped teacher cards, tasks, seeds and suites into ``folder``, to be edited there.

    Raises UsageError, before anything is written, where a file would be overwritten and ``force`` is not set.
    """
    copies = [
        (file, folder / kind / file.relative_to(resources.folder(kind)))
        for kind in KINDS
        for file in sorted(resources.folder(kind).rglob("*"))
        if file.is_file() and file.suffix in (".yaml", ".jsonl")
    ]
    present = [target for _, target in copies if target.exists()]
    if present and not force:
        raise UsageError(
            f"{present[0]} exists already: choose another folder, or overwrite {len(present)} files with --force"
        )
    for source, target in copies:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return InitReport(folder, tuple(target for _, target in copies))


@click.command("init", short_help="Copy tasks, teacher cards and suites out to edit them.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@common_options(run=None, seed=False)
def command(folder: Path, *, force: bool, as_json: bool) -> None:
    """Copy what ships and may be edited (teacher/, data/, eval/) into FOLDER (default: here).

    Then edit a file, or copy one under another name, and give it to a command:
    udrl synth --task data/tasks/mine.yaml
    """
    report = init(folder, force=force)
    lines = [f"copied {len(report.files)} files:", *(f"  {file}" for file in report.files)]
    lines.append(f"use one with e.g.: udrl synth --task {report.folder / 'data' / 'tasks' / 'search-query.yaml'}")
    emit(report, as_json=as_json, text="\n".join(lines))
