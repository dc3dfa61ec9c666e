"""udrl study: the same training under different conditions, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from udrl.cli.common import common_options, compute_options, emit, only_results_on_stdout, table
from udrl.cli.numbers import Real, Whole
from udrl.cli.train_method import OPTIONS, by_method, options_of_methods

if TYPE_CHECKING:
    from udrl.study.output import StudyReport

Function = TypeVar("Function", bound=Callable[..., Any])
POSITIVE = Whole(min=1)


@click.group("study", short_help="Compare methods, sizes and settings on your own tasks.")
def command() -> None:
    """Compare trainings on a run's own tasks; what is finished is kept, and the same command goes on.

    Each study leaves a table, a picture and a JSON in RUN/study/NAME.
    """


def cell_options(name: str) -> Callable[[Function], Function]:
    """Add what all studies have in common: where the results go, seeds, and how many cells at once."""

    def decorate(function: Function) -> Function:
        options = [
            click.option("--name", metavar="NAME", default=name, show_default=True, help="Folder under RUN/study."),
            click.option(
                "--seeds",
                metavar="N",
                type=POSITIVE,
                default=3,
                show_default=True,
                help="Trainings of each cell, with seeds from --seed on.",
            ),
            click.option(
                "--jobs",
                metavar="N",
                type=POSITIVE,
                default=1,
                show_default=True,
                help="Cells at once, each in a process with its share of the cores.",
            ),
            click.option("--ray", is_flag=True, help="Cells as tasks of a Ray cluster that sees the run folder."),
        ]
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def measure_options(function: Function) -> Function:
    """Add how each student is measured on the run's test inputs."""
    options = [
        click.option("--limit", metavar="N", type=POSITIVE, default=20, show_default=True, help="Test inputs a task."),
        click.option(
            "--sweep-inputs",
            metavar="N",
            type=POSITIVE,
            default=10,
            show_default=True,
            help="Of these, the ones on which obedience is measured.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def tell(report: StudyReport, *, as_json: bool) -> None:
    """Print a study: its table, what must be said of it, and where it stands."""
    rows = [list(row) for row in report.rows]
    text = "\n".join([table(rows), *report.notes, f"{report.table}, {report.picture.name}, {report.data.name}"])
    emit(report, as_json=as_json, text=text)


@command.command("methods", short_help="Upside-down RL beside SFT, DPO, GRPO and others.")
@click.option(
    "--method",
    "methods",
    metavar="NAME",
    multiple=True,
    help="Repeatable: udrl, sft, top, weighted, dpo, grpo. Default: all.",
)
@click.option(
    "--arm",
    "arms",
    type=click.Choice(["time", "calls"]),
    multiple=True,
    help="Repeatable: at equal training time, at equal reward calls. Default: both.",
)
@click.option("--student", metavar="NAME", default="gpt2-mini", show_default=True, help="As for udrl train.")
@click.option(
    "--start-steps",
    metavar="N",
    type=POSITIVE,
    default=600,
    show_default=True,
    help="Steps of SFT that all methods go on from.",
)
@click.option(
    "--seconds",
    metavar="X",
    type=Real(min=0, min_open=True),
    default=180.0,
    show_default=True,
    help="Training time of the arm 'time'.",
)
@click.option(
    "--calls",
    metavar="N",
    type=POSITIVE,
    default=4000,
    show_default=True,
    help="Returns looked at in the arm 'calls'.",
)
@click.option("--machine-usd", metavar="X", type=Real(min=0), help="Price of an hour of this machine, for the costs.")
@click.option(
    "--learning-rate",
    "rates",
    metavar="METHOD=X",
    multiple=True,
    help="Repeatable: of one method. Default: as udrl train --from has it.",
)
@options_of_methods
@measure_options
@cell_options("methods")
@common_options()
def methods_command(
    run: Path,
    methods: tuple[str, ...],
    arms: tuple[str, ...],
    rates: tuple[str, ...],
    limit: int,
    sweep_inputs: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train the same student by several methods from one start, and measure them side by side.

    At equal training time and at equal reward calls; see docs/studies.md.
    """
    from udrl.study.methods import ARMS, METHODS, study_methods
    from udrl.study.training import Measure
    from udrl.training.methods import method_of

    methods = methods or METHODS
    for name in methods:
        method_of(name)
    by_name = by_method(methods, options)
    with only_results_on_stdout():
        report = study_methods(
            run,
            methods=methods,
            arms=arms or ARMS,
            measure=Measure(limit, sweep_inputs),
            options=by_name,
            rates=_rates(rates),
            **{name: value for name, value in options.items() if name not in OPTIONS},
        )
    tell(report, as_json=as_json)


def _rates(given: tuple[str, ...]) -> dict[str, float]:
    rates: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            rates[name] = float(value)
        except ValueError:
            raise click.UsageError(f"--learning-rate {text}: write METHOD=X, such as grpo=1e-4") from None
        if not 0 < rates[name] < 1:
            raise click.UsageError(f"--learning-rate {text}: a learning rate lies within (0, 1)")
    return rates


STEPS = click.option("--steps", metavar="N", type=POSITIVE, default=900, show_default=True, help="Of training, in all.")


@command.command("multitask", short_help="One student for all tasks, or one for each.")
@click.option("--student", metavar="NAME", default="gpt2-mini", show_default=True, help="A preset, from scratch.")
@click.option(
    "--part",
    metavar="NAME",
    help="A smaller preset, for one task each. Default: the one of which as many as there are tasks weigh as much.",
)
@STEPS
@measure_options
@cell_options("multitask")
@common_options()
def multitask_command(run: Path, limit: int, sweep_inputs: int, as_json: bool, **options: Any) -> None:
    """Train one student for all tasks, and one for each of them with its share of the steps.

    Those for one task are once as large as the one for all, and once as large together.
    """
    from udrl.study.multitask import study_multitask
    from udrl.study.training import Measure

    with only_results_on_stdout():
        report = study_multitask(run, measure=Measure(limit, sweep_inputs), **options)
    tell(report, as_json=as_json)


@command.command("size", short_help="Relevance, obedience and latency against parameters.")
@click.option(
    "--student",
    "students",
    metavar="NAME",
    multiple=True,
    help="Repeatable: presets, from scratch. Default: gpt2-700k, gpt2-1m, gpt2-2m, gpt2-mini, gpt2-14m.",
)
@STEPS
@measure_options
@cell_options("size")
@common_options()
def size_command(
    run: Path, students: tuple[str, ...], limit: int, sweep_inputs: int, as_json: bool, **options: Any
) -> None:
    """Train students of different sizes alike, and measure what each can do and how fast it answers."""
    from udrl.study.size import STUDENTS, study_size
    from udrl.study.training import Measure

    with only_results_on_stdout():
        report = study_size(run, students=students or STUDENTS, measure=Measure(limit, sweep_inputs), **options)
    tell(report, as_json=as_json)


GRID = "Repeatable, or one list with commas."


@command.command("lr-batch", short_help="Learning rate against batch size, by kind of task.")
@click.option("--preset", type=click.Choice(["smoltulu"]), help="The published cells and the grid that they span.")
@click.option("--student", metavar="NAME", help="A preset, hub id or path. Default: gpt2-700k, from scratch.")
@click.option(
    "--from",
    "start_from",
    metavar="RUN|FOLDER",
    type=click.Path(path_type=Path),
    help="Go on from the student of this run or checkpoint, instead of --student.",
)
@click.option(
    "--learning-rates", "learning_rates", metavar="X,..", multiple=True, help=f"{GRID} Default: 3e-4, 1e-3, 3e-3, 1e-2."
)
@click.option("--batch-sizes", metavar="N,..", multiple=True, help=f"{GRID} Default: 8, 16, 32, 64.")
@click.option("--tokens", metavar="N", type=POSITIVE, help="Training tokens of every cell, about. Default: 400,000.")
@click.option("--steps", metavar="N", type=POSITIVE, help="Of the largest batch, instead of --tokens.")
@click.option(
    "--method",
    type=click.Choice(["sft", "udrl"]),
    help="sft (the default): on completions at least as good as their task's mean. udrl: on all, commanded.",
)
@click.option("--limit", metavar="N", type=POSITIVE, help="Held-out inputs a task to write for. Default: 60.")
@click.option("--micro-batch", metavar="N", type=POSITIVE, help="Most sequences computed at once. Default: 64.")
@click.option("--num-inputs", metavar="N", type=POSITIVE, help="A task, of the run if it is made. Default: 1,500.")
@click.option("--samples", metavar="N", type=POSITIVE, help="Completions of an input, likewise. Default: 4.")
@compute_options
@cell_options("lr-batch")
@common_options()
def lr_batch_command(
    run: Path,
    preset: str | None,
    learning_rates: tuple[str, ...],
    batch_sizes: tuple[str, ...],
    seed: int,
    seeds: int,
    name: str,
    jobs: int,
    ray: bool,
    device: str,
    precision: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a grid of learning rates and batch sizes, and say which tasks want a high ratio of the two.

    The learning rate is constant, so that each training is read twice: at equal tokens and at equal steps. A run
    without episodes gets some first, of the tasks arithmetic, instructions and text-to-image, by the built-in teacher.
    """
    from udrl.study.lr_batch.study import PRESETS, LrBatchOptions, study_lr_batch

    if given["student"] and given["start_from"]:
        raise click.UsageError("--from is a student already: leave --student out")
    chosen = dict(PRESETS[preset]) if preset else {}
    chosen |= {key: value for key, value in given.items() if value is not None}
    if learning_rates:
        chosen["learning_rates"] = numbers(learning_rates, float, "--learning-rates")
    if batch_sizes:
        chosen["batch_sizes"] = numbers(batch_sizes, int, "--batch-sizes")
    with only_results_on_stdout():
        report = study_lr_batch(
            run,
            LrBatchOptions(seeds=seeds, **chosen),
            seed=seed,
            jobs=jobs,
            ray=ray,
            name=name,
            device=device,
            precision=precision,
        )
    tell(report, as_json=as_json)


def numbers(texts: tuple[str, ...], kind: Callable[[str], Any], option: str) -> tuple[Any, ...]:
    """Return the numbers of an option that may be repeated and may hold several with commas."""
    try:
        return tuple(kind(part) for text in texts for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.UsageError(f"{option} takes numbers with commas between, found {', '.join(texts)!r}") from error
