"""udrl tasks: what can be written."""

from __future__ import annotations

import click

from udrl.cli.common import common_options, emit, table


@click.command("tasks", short_help="List the tasks, or check a task file of your own.")
@click.argument("names", nargs=-1, metavar="[TASK]...")
@common_options(run=None, seed=False)
def command(names: tuple[str, ...], *, as_json: bool) -> None:
    """List the shipped tasks, or show the named ones: a TASK is a name or a YAML file, which is checked."""
    from udrl.data.tasks import Task, load_tasks, seeds, shipped_tasks

    tasks = load_tasks(names or tuple(shipped_tasks(generated=True)))

    def entry(task: Task) -> dict[str, object]:
        return {
            "name": task.name,
            "title": task.title,
            "description": task.description,
            "instruction": task.instruction,
            "min_words": task.min_words,
            "max_words": task.max_words,
            "examples": len(task.examples),
            "seeds": len(seeds(task)),
            "builtin_teacher": task.builtin,
            "generator": task.generator,
            "by_name_only": task.generator is not None,
            "path": task.path,
        }

    entries = [entry(task) for task in tasks]
    if names:
        text = "\n\n".join(
            "\n".join(f"{key}: {' '.join(str(value).split())}" for key, value in one.items()) for one in entries
        )
    else:
        heads = ("task", "words", "seeds", "what it writes")
        rows = [
            (t.name, f"{t.min_words}-{t.max_words}", "by rules" if t.generator else str(e["seeds"]), t.title)
            for t, e in zip(tasks, entries, strict=True)
        ]
        text = table([heads, *rows]) + "\n\n'by rules': taken only where --task names it"
        text += "\nedit a copy: udrl init, then give the file to --task"
    emit({"tasks": entries}, as_json=as_json, text=text)
