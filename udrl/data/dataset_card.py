"""The README.md of an episode folder: a Hugging Face dataset card, so that the folder loads and uploads as it
is."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from udrl.data.episode import SPLITS
from udrl.data.facts import SynthFacts
from udrl.data.rules import MEANINGS
from udrl.data.run import Run
from udrl.data.statistics import EpisodeMeter, quantiles

HUB_LICENCES = (
    "apache-2.0 mit cc0-1.0 cc-by-4.0 cc-by-3.0 cc-by-sa-4.0 cc-by-sa-3.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 "
    "bsd-2-clause bsd-3-clause gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 odc-by odbl openrail bigscience-openrail-m "
    "creativeml-openrail-m cdla-permissive-2.0 llama2 llama3 llama3.1 llama3.2 llama3.3 gemma unlicense unknown"
).split()
"""Those of the hub's licence identifiers that teachers and recorded outputs come with."""

PLACE = "PATH_OF_THIS_FOLDER"
"""What the card loads, until it is known where the folder is."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_HEADER = """---
pretty_name: udrl episodes
{licence}size_categories:
- {size}
tags:
- udrl
- synthetic
- reward-conditioned
task_categories:
- text-generation
configs:
- config_name: default
  description: "{content}"
  data_files:
{splits}---
"""

_BODY = """
# Episodes

Inputs with completions and what each of them achieved, made with
[udrl](https://pypi.org/project/udrl/) to train a small text generator that obeys commands.

```python
from datasets import load_dataset

episodes = load_dataset("{place}")
kept = episodes.filter(lambda row: row["rejected_by"] is None)  # what a student trains on
```

{facts}
## Counts

{counts}
{rules}## Lengths and returns

Of kept episodes: 10 %, 50 % and 90 % quantiles; lengths in words.

{quantiles}
## Columns

| column | type | meaning |
|---|---|---|
| schema | int | version of this table |
| episode_id | string | identity of the episode |
| task | string | what was to be written |
| input_id | string | hash of the normalised input; the split is a function of it |
| input | string | what the completion is written for |
| completion | string | what was written |
| returns | struct of floats | what it achieved: {rewards}; null: not scored |
| horizon | int | length of the completion in words |
| origin | string | teacher; derived: mismatched (another input's), truncated, spliced (partly another's); student |
| teacher | string | who wrote the completion |
| round | int | 0: synthesis; from 1: rounds of improvement |
| sampling | string | the settings it was written with, as JSON; of a derived one also how it was derived |
| seed | int | seed of this completion |
| split | string | train, validation or test (90/5/5 by input) |
| rejected_by | string | the rule that keeps it out of training; null: kept |
"""


def dataset_card(*, counts: Mapping[str, int], meter: EpisodeMeter, facts: Mapping[str, object], content: str) -> str:
    """Return the text of the card.

    counts: as ``write_episodes`` returns them; meter: of the same episodes. facts: a line each; ``licence`` (an
    identifier such as apache-2.0) also goes into the header, where the hub reads it.
    content: a hash of the files beside the card. ``datasets.load_dataset(folder)`` keys its cache by the folder's last
    name and the header alone, so that without it one run's ``episodes`` would be loaded as another's, and old ones
    after a new scoring.
    """
    licence = licence_header({str(facts["licence"])} if facts.get("licence") else set())
    # datasets refuses a split without rows, so the header leaves it out.
    splits = "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in SPLITS if counts.get(split))
    total = counts.get("total", 0)
    size = next((name for most, name in _SIZES if total < most), "n>1M")
    lines = ((name, value) for name, value in facts.items())
    return _HEADER.format(licence=licence, splits=splits, size=size, content=f"content {content}") + _BODY.format(
        place=PLACE,
        facts=_table(("", ""), lines) if facts else "",
        counts=_counts(meter),
        rules=_rules(counts),
        quantiles=_quantiles(meter),
        rewards=", ".join(map(_cell, meter.reward_names)),
    )


def _counts(meter: EpisodeMeter) -> str:
    """Episodes by task, with their splits and origins, rejected ones apart."""
    origins = meter.origins

    def row(name: str, task: str | None) -> tuple[object, ...]:
        by_split = (meter.count(task=task, split=split) for split in SPLITS)
        by_origin = (meter.count(task=task, origin=origin) for origin in origins)
        return name, meter.count(task=task), meter.count(task=task, kept=False), *by_split, *by_origin

    tasks = meter.tasks
    rows = [row(task, task) for task in tasks] + ([row("all", None)] if len(tasks) != 1 else [])
    return _table(("task", "episodes", "of them rejected", *SPLITS, *origins), rows)


def _rules(counts: Mapping[str, int]) -> str:
    """What cleaning and hygiene rejected, repaired and masked; nothing where they did not."""
    rows = []
    for name, count in sorted(counts.items()):
        kind, _, rule = name.partition(":")
        if kind in ("rejected", "repaired"):
            rows.append((f"{kind}: {rule}", count, MEANINGS.get(rule, "")))
        elif kind == "masked":
            rows.append((f"{kind}: {rule}", count, "personal data, replaced by its kind in brackets"))
    return f"{_table(('rule', 'episodes', 'meaning'), rows)}\n" if rows else ""


def _quantiles(meter: EpisodeMeter) -> str:
    rows = []
    for task in meter.tasks:
        for origin in meter.origins:
            lengths = quantiles(meter.lengths(task, (origin,)))
            if lengths is None:
                continue
            returns = (quantiles(meter.returns(task, name, (origin,))) for name in meter.reward_names)
            cells = ("not scored" if three is None else _three(three, 2) for three in returns)
            rows.append((task, origin, _three(lengths, 0), *cells))
    return _table(("task", "origin", "length", *meter.reward_names), rows)


def _three(values: Sequence[float], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def licence_header(licences: Collection[str]) -> str:
    """Return the lines of a card's header that say the licence, as the hub reads them; none for several licences.

    The hub knows a list of identifiers; any other licence is ``other`` there, with its name beside it.
    """
    if len(licences) != 1:
        return ""
    [licence] = licences
    if licence in HUB_LICENCES:
        return f"license: {licence}\n"
    return f"license: other\nlicense_name: {json.dumps(licence)}\n"


def run_facts(run: Run) -> dict[str, object]:
    """Return what the card says about where the episodes come from: teachers, licences, tasks and seed.

    Empty before the first synthesis of the run. With teachers of several licences there is no single
    ``licence``.
    """
    known = run.facts()
    if SynthFacts.KEY not in known.stages:
        return {}
    synth = known.synth
    licences = {card.licence for card in synth.teachers.values()}
    facts: dict[str, object] = {"licence": licences.pop()} if len(licences) == 1 else {}
    for name, card in synth.teachers.items():
        facts[f"teacher {name}"] = f"{card.model}, {card.licence}: {card.outputs}"
    return {**facts, "tasks": ", ".join(synth.tasks), "seed": synth.seed}


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
