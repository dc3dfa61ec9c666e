"""What a reader must know to believe the figures of a benchmark: one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from udrl.eval import following
from udrl.eval.completions import Block
from udrl.eval.students import StudentEntry
from udrl.eval.suites import Items, Suite
from udrl.eval.teachers import Contestant, LiveRow
from udrl.eval.writer import RunData
from udrl.teacher.backends.builtin.phrases import content_words


def notes_of(suite: Suite, items: Items, data: RunData, entries: Sequence[StudentEntry]) -> list[str]:
    """Return the notes on inputs and sweeps."""
    counts = {task: len(items.of(task)) for task in items.tasks}
    listed = ", ".join(f"{task} {count}" for task, count in counts.items())
    notes = [f"Inputs: {listed}. Up to {suite.samples} completions each."]
    if data.train:
        notes.append(_unseen(items, data))
    if items.seen:
        notes.append(f"{items.seen} inputs of the suite were left out because training had seen them.")
    sweep = suite.following
    if sweep is None or not any(one.swept for one in entries):
        return notes
    notes.append(
        f"Command following: the first {sweep.inputs} inputs a task, nine levels, {sweep.seeds} seeds. "
        f"Leakage: the first {sweep.leakage_inputs} inputs at levels 10, 50 and 90 %, the other attributes "
        "commanded at their median. Without calibration: the same first inputs, all levels."
    )
    few = [task for task, count in counts.items() if min(count, sweep.inputs) < following.MIN_INPUTS]
    if few:
        notes.append(
            f"Command following is defined on at least {following.MIN_INPUTS} inputs a task; there are fewer "
            f"for {', '.join(few)}."
        )
    return notes


def backend_notes(contestants: Sequence[Contestant]) -> list[str]:
    """Return a note where live systems were asked through different backends, which may differ by themselves."""
    backends = {one.card.backend for one in contestants if isinstance(one, LiveRow)} - {"builtin"}
    if len(backends) < 2:
        return []
    return [
        f"Live systems were asked through different backends ({', '.join(sorted(backends))}), which may differ by "
        "themselves: ask all of them at one endpoint (--base-url) for a fair table."
    ]


def empty_notes(blocks: Sequence[Block]) -> list[str]:
    """Return a note for each system of the table that wrote empty completions: they count, as relevance 0."""
    notes = []
    for block in blocks:
        empty = sum(row.completion is not None and not row.completion.strip() for row in block.rows)
        if empty and "#" not in block.name and block.facts.kind != "baseline":
            share = f"{empty:,} of the {len(block.rows):,} completions"
            notes.append(f"{share} of {block.name} are empty: they count, with relevance 0.")
    return notes


def _unseen(items: Items, data: RunData) -> str:
    known = {word.casefold() for text in {e.input for e in data.train} for word in content_words(text)}
    used = [word.casefold() for item in items.items for word in content_words(item.input)]
    unseen = sum(word not in known for word in used) / max(1, len(used))
    return f"{100 * unseen:.0f} % of the content words of the inputs occur in no training input."
