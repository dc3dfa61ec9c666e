"""``udrl study size``: relevance, obedience and latency of students of different sizes, trained alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl.arguments import checked
from udrl.errors import UsageError
from udrl.study.cells import Cell, run_cells
from udrl.study.figures import Figure, mean, over_inputs, shown
from udrl.study.folders import data_of
from udrl.study.output import MUTED, STUDENT, StudyReport, publish, study_folder
from udrl.study.training import Measure, train_one
from udrl.training.starting_point import preset_of

STUDENTS = ("gpt2-700k", "gpt2-1m", "gpt2-2m", "gpt2-mini", "gpt2-14m")
PANELS = {
    "top": "relevance of student@top",
    "relevance": "relevance followed\n(within-input Spearman)",
    "length": "length followed\n(within-input Spearman)",
    "latency": "one answer, ms (median)",
}


@checked
def study_size(
    run: Path | str,
    *,
    students: Sequence[str] = STUDENTS,
    steps: int = 900,
    seeds: int = 1,
    measure: Measure | None = None,
    seed: int = 0,
    jobs: int = 1,
    ray: bool = False,
    name: str = "size",
) -> StudyReport:
    """Train and measure what is missing, and write RUN/study/NAME.

    students: presets, each trained from scratch for so many steps on the same order of episodes. Raises UsageError
    for an unknown preset and for one size alone, StudentError where cells fail.
    """

    for one in students:
        preset_of(one, "random")
    if len(set(students)) < 2:
        raise UsageError("a study of sizes compares two students at least")
    run, look = Path(run), measure or Measure()
    study = study_folder(run, name)
    common = {**data_of(run), **look.settings, "steps": steps}
    cells = [
        Cell(f"{one}-{k}", train_one, {**common, "student": one, "seed": k}, {"run": str(run.absolute())})
        for one in dict.fromkeys(students)
        for k in range(seed, seed + seeds)
    ]
    with study.writing() as folder:
        results = run_cells(folder, cells, jobs=jobs, ray=ray)
        sizes = {one: _figures([results[f"{one}-{k}"] for k in range(seed, seed + seeds)]) for one in students}
        order = sorted(sizes, key=lambda one: sizes[one]["parameters"])
        header = ["student", "parameters", *(title.replace("\n", " ") for title in PANELS.values()), "training seconds"]
        rows = [
            [one, f"{sizes[one]['parameters']:,}", shown(sizes[one]["top"]), shown(sizes[one]["relevance"], 2),
             shown(sizes[one]["length"], 2), shown(sizes[one]["latency"], 0), f"{sizes[one]['seconds']:.0f}"]
            for one in order
        ]  # fmt: skip
        return publish(
            study,
            folder,
            title="Size, relevance, obedience and latency",
            settings={"students": list(students), "steps": steps, "seeds": seeds, "seed": seed, **look.settings},
            cells=results,
            table=[header, *rows],
            bars=_Curves([sizes[one] for one in order]),
            findings=sizes,
        )


def _figures(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    latencies = [cell["rows"]["student@top"].get("latency_ms") for cell in cells]

    def over(name: str) -> Figure | None:
        return over_inputs(cell["items"].get(name, {}) for cell in cells)

    return {
        "parameters": cells[0]["parameters"],
        "seconds": sum(cell["seconds"] for cell in cells) / len(cells),
        "top": over("student@top"),
        "latency": mean(value for value in latencies if value is not None),
        "relevance": over("relevance followed"),
        "length": over("length followed"),
    }


@dataclass(frozen=True)
class _Curves:
    """Each figure over the number of parameters, in a panel of its own."""

    sizes: Sequence[dict[str, Any]]

    def __call__(self, figure: Any) -> None:
        figure.set_size_inches(8.5, 5.5)
        for axes, (name, title) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
            points: list[tuple[int, Figure]] = [(s["parameters"], s[name]) for s in self.sizes if s[name] is not None]
            for size, (_, low, high) in points:
                axes.plot([size, size], [low, high], color=MUTED, linewidth=2)
            axes.plot([size for size, _ in points], [value[0] for _, value in points], "o-", color=STUDENT)
            axes.set_xscale("log")
            axes.minorticks_off()
            sizes = [s["parameters"] for s in self.sizes]
            axes.set_xticks(sizes, [f"{parameters / 1e6:.3g}M" for parameters in sizes])
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("parameters")
            if all(low >= 0 for _, (_, low, _) in points):
                axes.set_ylim(bottom=0)
            axes.grid(color="#e5e5e5")
            axes.set_axisbelow(True)
