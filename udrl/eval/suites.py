"""Benchmark suites: which inputs, systems, encoders and sweeps one benchmark consists of.

A suite is one YAML file in ``eval/`` (or a user's own)::

    schema: 1
    name: relevance
    title: Relevance on held-out inputs
    description: what the figures of this suite say, and about what
    inputs: {folder: inputs/relevance}     # TASK.jsonl each; or {split: test}, {file: F, task: T},
                                           # {hub: ORG/DATASET, task: T, split: S, field: F}, {recorded: true}
    tasks: [text-to-image]                 # left out: every task that has inputs and that the student knows
    limit: 200                             # most inputs a task; left out: all
    samples: 3                             # completions of one input, each with a seed of its own
    seed: 0                                # left out: that of the call
    systems: [student@matched, student@top, student@open, teacher, echo, shuffled, nearest]
    students: [runs/other]                 # further students, beside the run's own
    references: [llama3]                   # teacher cards, or models of recorded files; the first one leads
    recorded: [outputs.jsonl]              # files of recorded outputs
    rewards: [novelty]                     # further figures of every completion
    encoder: all-MiniLM-L6-v2              # of the headline figures
    second_encoder: lsa                    # takes no part in training
    following: {inputs: 50, seeds: 3, leakage_inputs: 20, attributes: [relevance]}
    latency_requests: 24

Paths are relative to the suite's file. Only the keys ``schema``, ``name``, ``title``, ``description`` and
``inputs`` are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from udrl import resources
from udrl.data.inputs import DEFAULT_FIELDS, cut_input, input_id, read_inputs
from udrl.data.tasks import NAME
from udrl.errors import TaskError, unknown
from udrl.yamlfile import check_keys, mapping_at, read_mapping, text_at, texts_at, whole_at

KIND = "suite"
SYSTEMS = ("student@matched", "student@top", "student@open", "teacher", "echo", "shuffled", "nearest")
"""The systems that a suite can name; references asked for at the call stand beside them."""
OPTIONAL = (
    "tasks", "limit", "samples", "seed", "systems", "students", "references", "recorded", "rewards", "encoder",
    "second_encoder", "following", "latency_requests",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where inputs come from: a ``folder`` of TASK.jsonl, the run's own test ``split``, one ``file`` or one dataset of
    the ``hub`` (name, and which split of it) for one task, or the ``recorded`` files themselves.
    """

    kind: Literal["folder", "split", "file", "hub", "recorded"]
    path: Path | None = None
    task: str | None = None
    field: str | None = None
    dataset: str | None = None
    split: str = "test"


@dataclass(frozen=True)
class Sweep:
    """How command following is measured: ``inputs`` held-out inputs a task, ``seeds`` completions a level.

    leakage_inputs: inputs a task for the sweeps in which the other attributes are commanded at their median
    (a subset, because they cost as much again). attributes: which are swept; none = all of the student's.
    """

    inputs: int = 50
    seeds: int = 3
    leakage_inputs: int = 20
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """One suite, as its YAML file says (see the module's docstring); ``following`` None: commands are not
    swept; ``seed`` None: that of the call.
    """

    name: str
    title: str
    description: str
    source: Source
    tasks: tuple[str, ...]
    limit: int | None
    samples: int
    systems: tuple[str, ...]
    encoder: str
    second_encoder: str
    following: Sweep | None
    latency_requests: int
    path: Path
    seed: int | None = None
    students: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    recorded: tuple[Path, ...] = ()
    rewards: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One question of a suite: an ``input`` to be answered for a ``task``. The unit that intervals are
    clustered by.
    """

    task: str
    input_id: str
    input: str


@dataclass(frozen=True)
class Items:
    """The inputs of a suite, in task order; ``seen`` counts inputs left out because a training episode has
    them.
    """

    items: tuple[Item, ...]
    seen: int

    def of(self, task: str) -> list[Item]:
        """Return the items of ``task``."""
        return [item for item in self.items if item.task == task]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have items, in order."""
        return tuple(dict.fromkeys(item.task for item in self.items))


def load_suite(name_or_file: str | Path) -> Suite:
    """Read the suite that ships as ``name`` or stands in a YAML file.

    Raises UsageError for an unknown name (listing those that ship), TaskError for a file that is not a
    valid suite.
    """
    text = str(name_or_file)
    if isinstance(name_or_file, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        return _parse(Path(name_or_file))
    names = suite_names()
    if text not in names:
        raise unknown(KIND, text, names)
    return _parse(resources.folder("eval") / f"{text}.yaml")


def suite_names() -> list[str]:
    """Return the names of the suites that ship."""
    return sorted(path.stem for path in resources.folder("eval").glob("*.yaml"))


def load_items(
    suite: Suite,
    *,
    known_tasks: Sequence[str],
    seen: Callable[[str, str], bool] = lambda _task, _input_id: False,
    split: Callable[[str], Sequence[Item]] | None = None,
    limit: int | None = None,
) -> Items:
    """Read the inputs of ``suite`` for those of its tasks that are among ``known_tasks``.

    seen: says of (task, input_id) whether a training episode has it; such an input is left out and counted,
    so that
        what the suite measures is held out by construction. split: returns the items of a split of the run,
        for a suite whose source is one. limit: at most so many inputs a task (besides the suite's own
        limit), the first ones of the file.

    Raises UsageError where the suite names a task that is not known, TaskError where nothing is left to
    measure, and what `read_inputs` raises.
    """
    for task in suite.tasks:
        if task not in known_tasks:
            raise unknown("task", task, known_tasks)
    tasks = suite.tasks or tuple(known_tasks)
    most = min(n for n in (suite.limit, limit, 10**9) if n is not None)
    chosen: list[Item] = []
    left_out = 0
    for task in tasks:
        kept: dict[str, Item] = {}
        for item in _source_items(suite, task, split):
            if item.input_id in kept:
                continue
            if seen(task, item.input_id):
                left_out += 1
            elif len(kept) < most:
                kept[item.input_id] = item
        chosen.extend(kept.values())
    if not chosen:
        raise TaskError(
            f"{suite.path}: no held-out input for the tasks {', '.join(tasks) or 'of this run'} "
            f"({left_out} left out because training has seen them): give the suite inputs that are new"
        )
    return Items(tuple(chosen), left_out)


def _source_items(suite: Suite, task: str, split: Callable[[str], Sequence[Item]] | None) -> list[Item]:
    source = suite.source
    if source.kind in ("split", "recorded"):
        if split is None:
            what = (
                "a test split, and there is no run" if source.kind == "split" else "recorded files, and none are named"
            )
            raise TaskError(f"{suite.path}: takes its inputs from {what}: name a file")
        return list(split(task))
    if source.kind == "hub":
        return _hub_items(source, suite.path) if task == source.task else []
    assert source.path is not None
    path = source.path
    if source.kind == "folder":
        path = source.path / f"{task}.jsonl"
        if not path.exists():
            if task in suite.tasks:
                raise TaskError(f"{suite.path}: task '{task}' has no inputs, there is no {path}: add it")
            return []
    elif task != source.task:
        return []
    return [Item(task, input_id(text), text) for text in read_inputs(path, field=source.field)]


def _hub_items(source: Source, path: Path) -> list[Item]:
    """Read a dataset of the Hugging Face hub (or a folder that ``datasets`` reads)."""
    import datasets

    assert source.dataset is not None
    assert source.task is not None
    try:
        data = datasets.load_dataset(source.dataset, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TaskError(
            f"{path}: the dataset {source.dataset}, split {source.split}, cannot be had ({reason}): check the name and "
            "the connection, or save its inputs as a file"
        ) from error
    names = (source.field,) if source.field else DEFAULT_FIELDS
    field = next((name for name in names if name in data.column_names), None)
    if field is None:
        raise TaskError(
            f"{path}: the dataset {source.dataset} has no column {' or '.join(names)}; found: "
            f"{', '.join(data.column_names)}: name the right one as 'field'"
        )
    texts = [cut_input(text.strip())[0] for text in data[field] if isinstance(text, str) and text.strip()]
    return [Item(source.task, input_id(text), text) for text in texts]


def _parse(path: Path) -> Suite:
    data = read_mapping(path, kind=KIND)
    where = str(path)
    check_keys(data, where=where, required=("name", "title", "description", "inputs"), optional=OPTIONAL)
    name = text_at(data, "name", where=where)
    if not NAME.fullmatch(name):  # it becomes a folder of the run
        raise TaskError(f"{where}: key 'name' must be small letters, digits and single hyphens, found {name!r}")
    systems = texts_at(data, "systems", where=where) if "systems" in data else SYSTEMS
    for system in systems:
        if system not in SYSTEMS:
            raise TaskError(f"{where}: {unknown('system', system, SYSTEMS)}")
    return Suite(
        name=name,
        title=text_at(data, "title", where=where),
        description=text_at(data, "description", where=where).strip(),
        source=_source(mapping_at(data, "inputs", where=where), path),
        tasks=texts_at(data, "tasks", where=where) if "tasks" in data else (),
        limit=whole_at(data, "limit", where=where) if "limit" in data else None,
        samples=_whole(data, "samples", 3, where),
        systems=tuple(dict.fromkeys(systems)),
        encoder=text_at(data, "encoder", where=where) if "encoder" in data else "all-MiniLM-L6-v2",
        second_encoder=text_at(data, "second_encoder", where=where) if "second_encoder" in data else "lsa",
        following=_sweep(mapping_at(data, "following", where=where), where) if "following" in data else None,
        latency_requests=_whole(data, "latency_requests", 24, where, low=0),
        path=path,
        seed=whole_at(data, "seed", where=where, low=0, high=None) if "seed" in data else None,
        students=tuple(_beside(path, text) for text in _texts(data, "students", where)),
        references=_texts(data, "references", where),
        recorded=tuple(path.parent / name for name in _texts(data, "recorded", where)),
        rewards=_texts(data, "rewards", where),
    )


def _beside(path: Path, student: str) -> str:
    """Return ``[NAME=]FOLDER`` with the folder relative to the suite's file."""
    name, equals, folder = student.rpartition("=")
    return f"{name}{equals}{path.parent / folder}"


def _texts(data: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    return texts_at(data, key, where=where) if key in data else ()


def _source(data: dict[str, Any], path: Path) -> Source:
    where = f"{path}, inputs"
    # a dataset of the hub has a split of its own
    kinds = [kind for kind in ("hub", "folder", "split", "file", "recorded") if kind in data]
    if len(kinds) != 1 and kinds != ["hub", "split"]:
        raise TaskError(
            f"{where}: give exactly one of folder, split, file, hub and recorded, found {', '.join(data) or 'nothing'}"
        )
    if kinds[0] == "hub":
        check_keys(data, where=where, required=("hub", "task"), optional=("split", "field"))
        texts = {key: text_at(data, key, where=where) for key in data}
        return Source(
            "hub", None, texts["task"], texts.get("field"), dataset=texts["hub"], split=texts.get("split", "test")
        )
    if kinds[0] == "recorded":
        check_keys(data, where=where, required=("recorded",))
        if data["recorded"] is not True:
            raise TaskError(f"{where}: key 'recorded' must be true; the files are named as 'recorded' beside 'inputs'")
        return Source("recorded")
    if kinds[0] == "folder":
        check_keys(data, where=where, required=("folder",), optional=("field",))
        folder = path.parent / text_at(data, "folder", where=where)
        if not folder.is_dir():
            raise TaskError(f"{where}: there is no folder {folder}: check the path")
        return Source("folder", folder, None, text_at(data, "field", where=where) if "field" in data else None)
    if kinds[0] == "split":
        check_keys(data, where=where, required=("split",))
        if data["split"] != "test":
            raise TaskError(f"{where}: the split of a benchmark is 'test', found {data['split']!r}")
        return Source("split")
    check_keys(data, where=where, required=("file", "task"), optional=("field",))
    field = text_at(data, "field", where=where) if "field" in data else None
    return Source("file", path.parent / text_at(data, "file", where=where), text_at(data, "task", where=where), field)


def _sweep(data: dict[str, Any], where: str) -> Sweep:
    where = f"{where}, following"
    check_keys(data, where=where, optional=("inputs", "seeds", "leakage_inputs", "attributes"))
    defaults = Sweep()
    return Sweep(
        inputs=_whole(data, "inputs", defaults.inputs, where),
        seeds=_whole(data, "seeds", defaults.seeds, where),
        leakage_inputs=_whole(data, "leakage_inputs", defaults.leakage_inputs, where, low=0),
        attributes=texts_at(data, "attributes", where=where) if "attributes" in data else (),
    )


def _whole(data: dict[str, Any], key: str, default: int, where: str, *, low: int = 1) -> int:
    return whole_at(data, key, where=where, low=low) if key in data else default
