"""The model card of a student: what it is, how it is commanded, where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from udrl import __version__
from udrl.commands import CommandSpace
from udrl.data.dataset_card import licence_header
from udrl.data.facts import TeacherFacts, TrainFacts

CARD = """---
{licence_header}library_name: transformers
pipeline_tag: text-generation
tags: [udrl, upside-down-rl, {kind}]
---
# {name}

{intro}

- **Parameters**: {parameters:,}
- **Tasks**: {tasks}
- **Commands**: {attributes}
- **Episodes**: {episodes}, written by {teachers}; {steps:,} steps, seed {seed}
- **Method**: {method}; {seconds:,.0f} s of training, {reward_calls:,} reward calls
- **Validation loss**: {loss}
{weights}{origin}- **Licence**: that of the starting weights and of what the teachers wrote:
{licences}

```python
import udrl

student = udrl.load("{folder}")
command = udrl.Command("{task}"{targets})
print(student.generate(["a red fox in the snow"], [command])[0].completion)
```

This is an ordinary Hugging Face checkpoint: `AutoModelForCausalLM` and `AutoTokenizer` load it. {prompt}
"""
UDRL = """A student of [upside-down reinforcement learning](https://arxiv.org/abs/1912.02875), trained with udrl
{version}: the desired return is an input, the completion that achieved it was the target."""
OTHER = """A student trained with udrl {version} by the method {name}, without commands, for comparison with
[upside-down reinforcement learning](https://arxiv.org/abs/1912.02875)."""
IDS = """A prompt is the input's
ids, then the ids of the command, all of them above the tokenizer's vocabulary (`command_space.json` says which:
first the task, then one id an attribute). Text can never encode to them."""
TEXT = """A prompt is the
input and its command in words, such as ` a red fox in the snow{example}` (with the space before it): numbers are
bins, 0 to {last}, and what is left out is open. An input that contains such words is read as a command."""


def write_card(
    folder: Path, *, space: CommandSpace, kind: str, trained: TrainFacts, teachers: Mapping[str, TeacherFacts]
) -> None:
    """Write README.md into the checkpoint ``folder`` from what run.json says of the training and of the teachers.

    kind: of the network, by transformers' name.
    """
    licences = licence_lines(teachers)
    ranges = [f"{a.name} [{a.low:g}, {a.high:g}]{' ' + a.unit if a.unit else ''}" for a in space.attributes]
    loss, gap, origin, method = trained.validation_loss, trained.loss_gap, trained.origin, trained.method
    weights = trained.weights
    if weights is not None:
        licences = [f"the starting weights: {weights.licence or 'not known here, see where they come from'}", *licences]
    middle = {a.name: (space.bins - 1) / 2 for a in space.attributes}
    text = CARD.format(
        intro=(UDRL if method["name"] == "udrl" else OTHER).format(version=__version__, name=method["name"]),
        method=", ".join([method["name"], *(f"{n} {v}" for n, v in method.items() if n != "name" and v is not None)]),
        seconds=trained.seconds,
        reward_calls=trained.reward_calls,
        targets=', {"relevance": 0.7, "length": 20}' if space.attributes else "",
        weights="" if weights is None else f"- **Starting weights**: {weights.source}, SHA-256 `{weights.sha256}`\n",
        origin=""
        if origin is None
        else f"- **Started from**: the student {origin.student} (weights {origin.weights}), which knew "
        f"{', '.join(origin.tasks)}; {origin.replayed or 0:,} of its episodes were trained on again\n",
        prompt=IDS
        if space.text is None
        else TEXT.format(example=space.shown(space.tasks[0], middle), last=space.bins - 1),
        name=trained.student,
        kind=kind,
        parameters=trained.parameters,
        tasks=", ".join(space.tasks),
        attributes=", ".join(ranges) or "none",
        episodes=f"{trained.episodes:,} kept ones of the training split"
        + (f" (selection {trained.selection})" if trained.selection is not None else ""),
        teachers=", ".join(teachers) or "unknown",
        steps=trained.steps,
        seed=trained.seed,
        loss="not measured"
        if loss is None
        else f"{loss:.3f} nats a token" + ("" if gap is None else f", {gap:+.3f} with others' commands"),
        licence_header=licence_header(
            {teacher.licence for teacher in teachers.values()} | ({weights.licence} if weights else set())
        ),
        licences="\n".join(f"  - {line}" for line in licences) or "  - no teacher is recorded in the run",
        folder=trained.folder,
        task=space.tasks[0],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def licence_lines(teachers: Mapping[str, TeacherFacts]) -> list[str]:
    """Return what each teacher's licence says about training on what it wrote. teachers: as run.json records them."""
    return [f"{name} ({item.model}), {item.licence}: {item.outputs}" for name, item in teachers.items()]
