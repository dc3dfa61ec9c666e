"""Tasks: what to write. One strict YAML file each; ``data/tasks/`` holds those that ship."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl import yamlfile
from udrl.data.inputs import read_inputs
from udrl.data.rules import RULES
from udrl.data.run import Run
from udrl.errors import RunError, TaskError, UsageError, suggestion, unknown
from udrl.files import atomic_write
from udrl.resources import folder

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""A task's name: also a file name, a column value and, with a student, a control token."""

INSTRUCTION_VARIABLES = ("input", "min_words", "max_words")
INVENT_VARIABLES = ("examples", "count")
GENERATORS = ("arithmetic", "instructions")
"""What the key ``generator`` may name: rules that invent a task's inputs and that the built-in teacher writes by."""
SLOT = "{}"
"""Where the built-in teacher sets a phrase of the input into an opener or a mention."""


@dataclass(frozen=True)
class Example:
    """An input with a completion that shows what the task wants."""

    input: str
    completion: str


@dataclass(frozen=True)
class Lexicon:
    """What the built-in teacher writes a task from.

    Completions join one opener, some mentions (both hold one ``{}`` for a phrase of the input), details and a
    closer (both without one) by ``separator``.
    """

    separator: str
    openers: tuple[str, ...]
    mentions: tuple[str, ...]
    details: tuple[str, ...]
    closers: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """What to write: the contents of one task file.

    instruction: the template of a teacher's request, with ``{input}``, ``{min_words}`` and ``{max_words}``.
    invent: the template of a request for new inputs, with ``{examples}`` and ``{count}``; or None.
    min_words, max_words: bounds of a completion's length in words, both inclusive.
    lexicon: what the built-in teacher writes from; None, and no generator: it cannot write this task.
    generator: one of GENERATORS; inputs are then invented by its rules whoever the teacher is. None: from seeds.
    allow: cleaning rules that do not hold for this task, of ``udrl.data.rules.RULES``.
    rewards: what its episodes are scored with where nobody says; none: relevance.
    path: the file that the task was read from.
    """

    name: str
    title: str
    description: str
    instruction: str
    invent: str | None
    min_words: int
    max_words: int
    examples: tuple[Example, ...]
    lexicon: Lexicon | None
    path: Path
    allow: tuple[str, ...] = ()
    generator: str | None = None
    rewards: tuple[str, ...] = ()

    @property
    def builtin(self) -> bool:
        """Whether the built-in teacher can write this task."""
        return self.lexicon is not None or self.generator is not None

    def request(self, text: str) -> str:
        """Return what a teacher is asked for the input ``text``, as one conversation turn."""
        return self.instruction.format(input=text, min_words=self.min_words, max_words=self.max_words).strip()


def load_task(path: Path | str) -> Task:
    """Read the task in the YAML file ``path``.

    Raises TaskError, naming file and key, for anything that is missing, unknown, of the wrong kind, or a
    template with a variable that it cannot have.
    """
    path = Path(path)
    where = str(path)
    data = yamlfile.read_mapping(path, kind="task")
    yamlfile.check_keys(
        data,
        where=where,
        required=("name", "title", "description", "instruction", "length"),
        optional=("invent", "examples", "lexicon", "generator", "rewards", "allow"),
    )
    name = yamlfile.text_at(data, "name", where=where)
    if not NAME.fullmatch(name):
        raise TaskError(f"{where}: key 'name' must be small letters, digits and single hyphens, found {name!r}")
    instruction = yamlfile.text_at(data, "instruction", where=where)
    check_template(instruction, "instruction", INSTRUCTION_VARIABLES, needed=("input",), where=where)
    invent = yamlfile.text_at(data, "invent", where=where) if "invent" in data else None
    if invent is not None:
        check_template(invent, "invent", INVENT_VARIABLES, needed=INVENT_VARIABLES, where=where)
    if "lexicon" in data and "generator" in data:
        raise TaskError(f"{where}: has both 'lexicon' and 'generator': the built-in teacher writes by one of them")
    low, high = _length(yamlfile.mapping_at(data, "length", where=where), where=where)
    return Task(
        name=name,
        title=yamlfile.text_at(data, "title", where=where).strip(),
        description=yamlfile.text_at(data, "description", where=where).strip(),
        instruction=instruction,
        invent=invent,
        min_words=low,
        max_words=high,
        examples=_examples(data.get("examples", []), where=where),
        lexicon=_lexicon(yamlfile.mapping_at(data, "lexicon", where=where), where=where) if "lexicon" in data else None,
        path=path,
        allow=_allow(yamlfile.texts_at(data, "allow", where=where), where=where) if "allow" in data else (),
        generator=_generator(data["generator"], where=where) if "generator" in data else None,
        rewards=yamlfile.texts_at(data, "rewards", where=where) if "rewards" in data else (),
    )


def shipped_tasks(*, generated: bool = False) -> dict[str, Path]:
    """Return the files of the tasks that ship with udrl, by task name, in name order.

    generated: also those that are taken only where they are named, which rules generate (``data/tasks/generated``).
    """
    tasks = folder("data") / "tasks"
    paths = [*tasks.glob("*.yaml"), *((tasks / "generated").glob("*.yaml") if generated else ())]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}


def load_tasks(names_or_files: Sequence[str | Path] = ()) -> tuple[Task, ...]:
    """Return the named tasks in the order given; none named: those that ship without the generated, in name order.

    An entry that ends in .yaml or .yml or holds a path separator is a file of the user's. Raises UsageError
    for an unknown or repeated name, TaskError for a file that is not valid.
    """
    shipped = shipped_tasks(generated=True)
    tasks: list[Task] = []
    for entry in names_or_files or tuple(shipped_tasks()):
        text = str(entry)
        if text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
            task = load_task(entry)
        elif text in shipped:
            task = load_task(shipped[text])
        else:
            raise unknown("task", text, shipped)
        if any(task.name == other.name for other in tasks):
            raise UsageError(f"task '{task.name}' is named twice (second time by '{entry}'): name it once")
        tasks.append(task)
    return tuple(tasks)


def store_tasks(run: Run, tasks: Sequence[Task]) -> None:
    """Copy the files of ``tasks`` into the run, so that later stages need no ``--task FILE`` again.

    A task that ships keeps the wider bounds that the run has for it (recorded outputs needed them): with narrower ones
    their episodes would be rejected.
    """
    for task in tasks:
        target = run.path / "tasks" / f"{task.name}.yaml"
        content = task.path.read_bytes()
        if target.is_file() and task.path == shipped_tasks(generated=True).get(task.name):
            content = _widened(task, load_task(target)) or content
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(exist_ok=True)
            atomic_write(target, content)


def _widened(task: Task, other: Task) -> bytes | None:
    """Return the file of ``task`` with bounds that hold those of ``other`` too; None where its own do."""
    low, high = min(task.min_words, other.min_words), max(task.max_words, other.max_words)
    if (low, high) == (task.min_words, task.max_words):
        return None
    data = yamlfile.read_mapping(task.path, kind="task")
    data["length"] = {"min": low, "max": high}
    return yamlfile.written(data)


def stored_tasks(run: Run) -> tuple[Task, ...]:
    """Return the tasks that the run was synthesised for, in name order; raises RunError where it has none."""
    files = sorted((run.path / "tasks").glob("*.yaml"))
    if not files:
        raise RunError(f"{run.path} holds no tasks: run 'udrl synth --run {run.path}' first")
    return tuple(load_task(path) for path in files)


def seeds(task: Task) -> list[str]:
    """Return the seed inputs of ``task``: what inputs are drawn and invented from where no file is given.

    They are, in this order, what is found first: ``NAME.jsonl`` beside the task's file,
    ``../seeds/NAME.jsonl`` from there, those that ship for a task of this name, the inputs of its examples.
    """
    name = f"{task.name}.jsonl"
    beside = (
        task.path.parent / name,
        task.path.parent.parent / "seeds" / name,
        folder("data") / "seeds" / name,
    )
    for path in beside:
        if path.is_file():
            return list(read_inputs(path))
    return [example.input for example in task.examples]


def check_template(text: str, key: str, known: Collection[str], *, needed: Collection[str], where: str) -> None:
    """Templates are str.format's, but a variable is a bare name: no attribute, conversion or format."""
    try:
        fields = [(field, spec, conversion) for _, field, spec, conversion in string.Formatter().parse(text)]
    except ValueError as error:
        raise TaskError(
            f"{where}: key '{key}' is not a valid template ({error}); write a literal brace as '{{{{' or '}}}}'"
        ) from error
    used = set()
    for field, spec, conversion in fields:
        if field is None:
            continue
        if field not in known or spec or conversion:
            shown = field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            listed = ", ".join(f"{{{name}}}" for name in known)
            raise TaskError(
                f"{where}: key '{key}' uses the unknown variable '{{{shown}}}'{suggestion(field, known)}; "
                f"known: {listed}"
            )
        used.add(field)
    for name in needed:
        if name not in used:
            raise TaskError(f"{where}: key '{key}' must use the variable '{{{name}}}'")


def _length(data: dict[str, Any], *, where: str) -> tuple[int, int]:
    where = f"{where}: length"
    yamlfile.check_keys(data, where=where, required=("min", "max"))
    low = yamlfile.whole_at(data, "min", where=where)
    return low, yamlfile.whole_at(data, "max", where=where, low=low)


def _examples(data: Any, *, where: str) -> tuple[Example, ...]:
    if not isinstance(data, list):
        raise TaskError(f"{where}: key 'examples' must be a list of inputs with completions")
    examples = []
    for number, item in enumerate(data, start=1):
        here = f"{where}: examples, item {number}"
        if not isinstance(item, dict):
            raise TaskError(f"{here}: must hold the keys 'input' and 'completion'")
        yamlfile.check_keys(item, where=here, required=("input", "completion"))
        texts = (yamlfile.text_at(item, key, where=here).strip() for key in ("input", "completion"))
        examples.append(Example(*texts))
    return tuple(examples)


def _allow(names: tuple[str, ...], *, where: str) -> tuple[str, ...]:
    for name in names:
        if name not in RULES:
            raise TaskError(
                f"{where}: key 'allow': unknown cleaning rule '{name}'{suggestion(name, RULES)}; known: "
                f"{', '.join(RULES)}"
            )
    return names


def _generator(name: Any, *, where: str) -> str:
    if name not in GENERATORS:
        known = ", ".join(GENERATORS)
        raise TaskError(
            f"{where}: key 'generator': unknown '{name}'{suggestion(str(name), GENERATORS)}; known: {known}"
        )
    return str(name)


def _lexicon(data: dict[str, Any], *, where: str) -> Lexicon:
    where = f"{where}: lexicon"
    yamlfile.check_keys(data, where=where, required=("separator", "openers", "mentions", "details", "closers"))
    separator = data["separator"]
    if not isinstance(separator, str) or not separator:
        raise TaskError(
            f"{where}: key 'separator' must be text in quotation marks, such as \", \", found {separator!r}"
        )
    lists = {key: yamlfile.texts_at(data, key, where=where) for key in ("openers", "mentions", "details", "closers")}
    for key, wanted in {"openers": 1, "mentions": 1, "details": 0, "closers": 0}.items():
        for number, item in enumerate(lists[key], start=1):
            if item.count(SLOT) != wanted or item.replace(SLOT, "").strip("{}") != item.replace(SLOT, ""):
                rule = "exactly one slot '{}'" if wanted else "no slot '{}'"
                raise TaskError(f"{where}: item {number} of '{key}' must hold {rule}, found {item!r}")
    return Lexicon(separator=separator, **lists)
