"""A finished benchmark read from its files: what the report, a comparison and a study are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from udrl.data.run import Run
from udrl.errors import RunError, UsageError
from udrl.eval import completions, scores, summary

Row = Mapping[str, Any]
"""One completion: the columns of completions.parquet and scores.parquet."""


def benchmark_folders(run: Path) -> list[Path]:
    """Return the folders of the finished benchmarks of a run."""
    return sorted(path.parent for path in (run / "bench").glob(f"*/{summary.FILE}"))


def chosen_benchmark(run: Run, name: str | None) -> Path:
    """Return the folder of the run's benchmark ``name``; None: of the only one that has completions.

    Raises RunError where there is no such run or benchmark, UsageError where there are several to choose from.
    """
    run.check()
    if name is None:
        names = sorted(path.parent.name for path in run.path.glob(f"bench/*/{completions.FILE}"))
        if len(names) > 1:
            raise UsageError(f"{run.path} has the benchmarks {', '.join(names)}: say which with --name")
        name = names[0] if names else "none"
    folder = run.bench(name)
    if not (folder / completions.FILE).exists():
        raise RunError(f"there is no benchmark in {folder}: run udrl bench first")
    return folder


def read_benchmark(folder: Path) -> tuple[dict[str, Any], list[Row], dict[str, Any]]:
    """Return a benchmark's summary, its completions with their scores, and what it says of itself.

    Raises RunError where one of the files is missing, damaged or of another schema.
    """
    figures = summary.read_summary(folder)
    if "headline" not in figures:
        raise RunError(f"{folder} is of an earlier udrl: run udrl bench again, which keeps the completions")
    table, about = _table(folder / completions.FILE)
    scored, _ = _table(folder / scores.FILE)
    if table.num_rows != scored.num_rows:
        raise RunError(f"{folder}: {completions.FILE} and {scores.FILE} do not belong together: run udrl bench again")
    rows: list[Row] = [{**score, **row} for row, score in zip(table.to_pylist(), scored.to_pylist(), strict=True)]
    return figures, rows, about


def references_of(figures: Mapping[str, Any]) -> list[str]:
    """Return the references that systems are compared with (figures: summary.json); the first one leads."""
    return list(
        figures.get("references") or dict.fromkeys(ref for entry in figures["parity"].values() for ref in entry)
    )


def leading_of(figures: Mapping[str, Any]) -> str:
    """Return the system that is looked at first: the one to compare with the leading reference.

    figures: summary.json.
    """
    for rows in (figures.get("headline") or {}).values():
        if rows:
            return str(rows[0])
    references = references_of(figures)
    others = [name for name in figures["systems"] if name not in references[:1]]
    students = [name for name in others if figures["systems"][name]["kind"] == "student"]
    return str(next(iter([*students, *others, *figures["systems"]])))


def _table(path: Path) -> tuple[Any, dict[str, Any]]:
    if not path.exists():
        raise RunError(f"there is no {path}: run udrl bench first")
    return completions.read_table(path)
