"""Where the rows of a benchmark's teachers come from: asked now, from the run's own ledger, or from recorded files.

A run's own teacher that recorded outputs stand for cannot be asked: its row is what it wrote for the run's test
inputs. The same row stands in for a teacher that could be asked, but not now (no GPU, no endpoint).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from udrl.data.episode import Episode
from udrl.data.facts import TeacherFacts
from udrl.data.run import Run
from udrl.errors import RunError, TaskError, UdrlError, UsageError
from udrl.eval.completions import Block, Completion, Kind, SystemFacts
from udrl.eval.recorded import model_named, outputs_for
from udrl.eval.suites import Item
from udrl.teacher import cards
from udrl.teacher.cards import Card

TEACHER = "teacher"
"""The row of the run's own teacher."""

MODELS_NAMED = 3


@dataclass(frozen=True)
class LiveRow:
    """A row that is written now by the teacher of ``card``; ``written``: by it, for the run's test inputs, where it
    cannot be asked. compared: whether others are compared with it, as a reference."""

    name: str
    kind: Kind
    card: Card
    written: WrittenRow
    compared: bool = True


@dataclass(frozen=True)
class WrittenRow:
    """A row of completions that exist already: by task and input id, in their order.

    engine: who wrote them, for the table. source: where they stand, for messages. note: what the report says of it.
    compared: whether others are compared with it, as a reference.
    """

    name: str
    kind: Kind
    engine: str
    source: str
    completions: Mapping[tuple[str, str], Sequence[str]]
    note: str = ""
    compared: bool = True

    def block(self, items: Sequence[Item], *, key: str, samples: int) -> Block:
        """Return the first ``samples`` completions of each item; an item without any has no row."""
        rows = [
            Completion(self.name, self.name, "comparison", item.task, item.input_id, item.input, sample, 0, text)
            for item in items
            for sample, text in enumerate(self.completions.get((item.task, item.input_id), ())[:samples])
        ]
        return Block(self.name, key, SystemFacts(self.name, self.kind, engine=self.engine), tuple(rows))

    def covers(self, items: Sequence[Item]) -> int:
        """Return how many of ``items`` have a completion."""
        return sum((item.task, item.input_id) in self.completions for item in items)

    def beyond(self, items: Sequence[Item], samples: int) -> int:
        """Return how many completions of ``items`` there are beyond the first ``samples`` of each."""
        counts = (len(self.completions.get((item.task, item.input_id), ())) for item in items)
        return sum(max(0, count - samples) for count in counts)


Contestant = LiveRow | WrittenRow


def own_teacher(
    run: Run, answers: Sequence[Episode], *, base_url: str | None = None
) -> tuple[Contestant, tuple[str, ...]]:
    """Return the row of the teacher that ``run`` was synthesised with, and notes where that is not plain.

    answers: the run's test episodes, kept, by teachers. Raises RunError where the run does not say who wrote it.
    """
    known = run.facts().synth.teachers
    if not known:
        raise RunError(f"{run.path} does not say which teacher wrote it: name the teacher's card")
    source = f"the test inputs of {run.path}"
    recorded = [name for name, facts in known.items() if facts.backend == "recorded"]
    first, facts = next(iter(known.items()))
    if first in recorded:
        row = _written(TEACHER, "teacher", recorded, answers, source)
        said = f"The row teacher is what {_listed(recorded)} wrote for {source}, as recorded."
        others = ", ".join(name for name in known if name not in recorded)
        return replace(row, note=said), (f"The row teacher leaves {others} out.",) if others else ()
    notes = []
    if len(known) > 1:
        notes.append(f"The run has several teachers ({', '.join(known)}); the row 'teacher' is {first}.")
    try:
        card = _as_before(cards.load_card(facts.card or first), facts, base_url)
    except UdrlError as error:
        row = _written(TEACHER, "teacher", [first], answers, source)
        said = f"The row teacher is what {first} wrote for {source}, because its card cannot be read ({error})."
        return replace(row, note=said), tuple(notes)
    return _asked(TEACHER, "teacher", card, run, answers), tuple(notes)


def named_teacher(
    card: str | Path, run: Run, answers: Sequence[Episode], *, kind: Kind, base_url: str | None
) -> Contestant:
    """Return the row of a teacher that the user names; ``kind`` teacher is the run's own, else a reference.

    Raises as ``cards.load_card`` does.
    """
    name = TEACHER if kind == "teacher" else Path(str(card)).stem
    return _asked(name, kind, _at(cards.load_card(card), base_url), run, answers)


def recorded_rows(
    file: Path, items: Sequence[Item], *, taken: Iterable[str]
) -> tuple[list[WrittenRow], tuple[str, ...]]:
    """Return a row for each model in a file of recorded outputs (see `udrl.eval.recorded`), and notes.

    taken: names of rows that are there already. Only what was written for ``items`` is kept in memory.
    Raises InputError where the file cannot be read, or holds nothing for any of the items.
    """
    outputs = outputs_for(file, items)
    used = set(taken)
    rows = []
    for model, completions in outputs.models.items():
        # '#' marks a sweep in the files of a benchmark.
        name = model.replace("#", "-")
        while name in used:
            name += " (recorded)"
        used.add(name)
        rows.append(WrittenRow(name, "recorded", f"recorded: {model}", str(file), completions))
    if not outputs.others:
        return rows, ()
    return rows, (
        f"There is no row for {_listed(outputs.others)} of {file.name}: it holds none of these inputs by them.",
    )


def ordered(
    named: Sequence[str | Path],
    recorded: Sequence[WrittenRow],
    make: Callable[[str | Path], Contestant],
    *,
    teacher: Contestant | None,
    only_first: bool,
) -> list[Contestant]:
    """Return all contestants, the leading reference first.

    named: what the user compares with: models of ``recorded``, else teacher cards, which ``make`` turns into rows;
    teacher: the run's. Where anything is named, the other recorded rows are no references; where nothing is, all of
    them are, or with ``only_first`` (there is no student) the first. Raises UsageError where a name may mean several
    models.
    """
    by_name = {row.name: row for row in recorded}
    first: list[Contestant] = []
    for name in dict.fromkeys(named):
        meant = None if isinstance(name, Path) else model_named(name, by_name)
        first.append(make(name) if meant is None else by_name.pop(meant))
    if teacher is not None:
        first.append(teacher)
    others = not named and not (only_first and first)
    rest = [
        replace(row, compared=others and (number == 0 or not only_first)) for number, row in enumerate(by_name.values())
    ]
    return [*first, *rest]


def is_builtin(run: Run) -> bool:
    """Say whether the run was written by the built-in teacher alone, which can always be asked anew."""
    return list(run.facts().synth.teachers) == ["builtin"]


def _asked(name: str, kind: Kind, card: Card, run: Run, answers: Sequence[Episode]) -> LiveRow:
    style = card.mix[0].name if card.mix else None
    answered = [e for e in answers if style is None or json.loads(e.sampling).get("style") == style]
    return LiveRow(name, kind, card, _written(name, kind, [card.name], answered, f"the test inputs of {run.path}"))


def _as_before(card: Card, facts: TeacherFacts, base_url: str | None) -> Card:
    """Return ``card`` behind what answered for the run: its endpoint, or its backend and engine arguments."""
    address = base_url or facts.base_url
    if address is None and card.backend != "builtin":
        return cards.adjusted(card, backend=facts.backend, engine_arguments=facts.engine_arguments)
    return _at(card, address)


def _at(card: Card, base_url: str | None) -> Card:
    if base_url is None or card.backend == "builtin":
        return card
    return cards.at_endpoint(card, base_url)


def check_tasks(contestants: Iterable[Contestant], asked_for: Iterable[str], known: Iterable[str]) -> None:
    """Raise TaskError where a reference is to be asked about a task that has no file, so that nobody knows how to ask.

    asked_for: the tasks of the inputs; known: those with a file. The message names the models of recorded files: one of
    them may have been meant.
    """
    live = [one.name for one in contestants if isinstance(one, LiveRow)]
    unknown = sorted(set(asked_for) - set(known))
    if live and unknown:
        models = [one.name for one in contestants if isinstance(one, WrittenRow) and one.kind == "recorded"]
        meant = f", or name one of the recorded models {_listed(models)} as --reference" if models else ""
        raise TaskError(
            f"{live[0]} is a teacher card that would be asked now, and there is no file that says how to ask for the "
            f"task '{unknown[0]}': add one (udrl init){meant}"
        )


def check_base_url(contestants: Iterable[Contestant], base_url: str | None) -> None:
    """Raise UsageError where an endpoint is named and there is nobody to ask there."""
    asked = [one for one in contestants if isinstance(one, LiveRow) and one.card.backend != "builtin"]
    if base_url is not None and not asked:
        raise UsageError(
            f"nobody in this benchmark is asked at {base_url}: name a --reference, or leave --base-url out"
        )


def _written(name: str, kind: Kind, writers: Sequence[str], answers: Sequence[Episode], source: str) -> WrittenRow:
    completions: dict[tuple[str, str], list[str]] = {}
    for episode in answers:
        if episode.teacher in writers:
            completions.setdefault((episode.task, episode.input_id), []).append(episode.completion)
    return WrittenRow(name, kind, f"as written: {_listed(writers)}", source, completions)


def _listed(names: Sequence[str]) -> str:
    if len(names) <= MODELS_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:MODELS_NAMED])} and {len(names) - MODELS_NAMED} others"
