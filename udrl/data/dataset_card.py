"""The README.md of an episode folder: a Hugging Face dataset card, so that the folder loads and uploads as it
is."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from udrl.data.run import Run

HUB_LICENCES = (
    "apache-2.0 mit cc0-1.0 cc-by-4.0 cc-by-3.0 cc-by-sa-4.0 cc-by-sa-3.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 "
    "bsd-2-clause bsd-3-clause gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 odc-by odbl openrail bigscience-openrail-m "
    "creativeml-openrail-m cdla-permissive-2.0 llama2 llama3 llama3.1 llama3.2 llama3.3 gemma unlicense unknown"
).split()
"""Those of the hub's licence identifiers that teachers and recorded outputs come with."""

_HEADER = """---
pretty_name: udrl episodes
{licence}tags:
- udrl
- synthetic
- reward-conditioned
task_categories:
- text-generation
configs:
- config_name: default
  data_files:
{splits}---
"""

_BODY = """
# Episodes

Inputs with completions and what each of them achieved, made with
[udrl](https://pypi.org/project/udrl/) to train a small text generator that obeys commands.

```python
from datasets import load_dataset

episodes = load_dataset("PATH_OF_THIS_FOLDER")
```

{facts}
## Counts

{counts}
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
| origin | string | teacher, or derived: mismatched (another input's), truncated; or student |
| teacher | string | who wrote the completion |
| round | int | 0: synthesis; from 1: rounds of improvement |
| sampling | string | the settings it was written with, as JSON |
| seed | int | seed of this completion |
| split | string | train, validation or test (90/5/5 by input) |
| rejected_by | string | the rule that keeps it out of training; null: kept |
"""


def dataset_card(*, counts: Mapping[str, int], reward_names: Sequence[str], facts: Mapping[str, object]) -> str:
    """Return the text of the card.

    counts: as ``write_episodes`` returns them. facts: a line each; ``licence`` (an identifier such as
    apache-2.0) also goes into the header, where the hub reads it.
    """
    licence = licence_header({str(facts["licence"])} if facts.get("licence") else set())
    # datasets refuses a split without rows, so the header leaves it out.
    splits = "".join(
        f"  - split: {split}\n    path: {split}.parquet\n"
        for split in ("train", "validation", "test")
        if counts.get(split)
    )
    rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in facts.items())
    return _HEADER.format(licence=licence, splits=splits) + _BODY.format(
        facts=f"| | |\n|---|---|\n{rows}" if rows else "",
        counts="| | episodes |\n|---|---|\n" + "".join(f"| {k} | {v} |\n" for k, v in sorted(counts.items())),
        rewards=", ".join(reward_names),
    )


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
    synth = run.facts()["stages"].get("synth")
    if synth is None:
        return {}
    teachers: dict[str, dict[str, str]] = synth["teachers"]
    licences = {card["licence"] for card in teachers.values()}
    facts: dict[str, object] = {"licence": licences.pop()} if len(licences) == 1 else {}
    for name, card in teachers.items():
        facts[f"teacher {name}"] = f"{card['model']}, {card['licence']}: {card['outputs']}"
    return {**facts, "tasks": ", ".join(synth["tasks"]), "seed": synth["seed"]}


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
