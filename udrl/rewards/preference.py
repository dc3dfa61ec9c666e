"""A reward that was learnt from preferences: a reward model of ``udrl prefer``, asked by its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from udrl.errors import RewardError, damaged

NAME = "preference"
FILE = "preference.json"
SCHEMA = 1
BATCH = 64
SEPARATOR = "\n"
"""Between an input and its completion, for the model."""


def pair_ids(tokenizer: Any, inputs: Sequence[str], completions: Sequence[str], *, context: int) -> list[list[int]]:
    """Return each input with its completion as the ids that the model reads; where they are too many, the end of the
    input and then that of the completion is left out. Text that looks like a special token is ordinary text."""
    texts = [*inputs, *completions, SEPARATOR]
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    count, between = len(inputs), ids[-1]
    pairs = []
    for first, second in zip(ids[:count], ids[count:-1], strict=True):
        room = max(0, context - len(between) - len(second))
        pairs.append([*first[:room], *between, *second][:context])
    return pairs


def load_scorer(folder: Path | str) -> Any:
    """Load what scores, from a reward model's folder or, with a new head of one number, from a student's."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, local_files_only=True, trust_remote_code=False
    )


def logits_of(model: Any, rows: Sequence[Sequence[int]]) -> list[float]:
    """Return what the model says to each row of ids: the higher, the more it is preferred. Scores one by one alike."""
    import torch

    logits = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for first in range(0, len(order), BATCH):
            part = order[first : first + BATCH]
            longest = max(len(rows[row]) for row in part)
            ids = torch.full((len(part), longest), model.config.pad_token_id)
            mask = torch.zeros_like(ids)
            for index, row in enumerate(part):
                ids[index, : len(rows[row])] = torch.tensor(rows[row])
                mask[index, : len(rows[row])] = 1
            values = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, 0]
            for row, value in zip(part, values.float().tolist(), strict=True):
                logits[row] = value
    model.train(was_training)
    return logits


class Preference:
    """How much a completion would be preferred, in [0, 1].

    0.5 is what the model says in the mean of the completions that it was trained on, and their deviation is a unit of
    the logistic curve: only differences mean anything (Bradley and Terry 1952).
    """

    name = NAME
    low = 0.0
    high = 1.0
    unit = ""

    def __init__(self, folder: Path | str) -> None:
        """Load the reward model in ``folder``; raises RewardError where there is none."""
        from transformers import AutoTokenizer

        from udrl.architecture import architecture_of

        file = Path(folder) / FILE
        if not file.is_file():
            raise RewardError(f"{folder} holds no reward model ({FILE} is missing): make one with udrl prefer")
        with damaged(RewardError, file, "make the reward model with udrl prefer"):
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts["schema"] > SCHEMA:
                raise RewardError(f"{file} has the schema {facts['schema']}, which a newer udrl writes: update udrl")
            self.mean, self.deviation = float(facts["mean"]), float(facts["deviation"])
            if not (math.isfinite(self.mean) and 0 < self.deviation < math.inf):
                raise ValueError(f"mean {self.mean} and deviation {self.deviation} are none of values")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self.model = load_scorer(folder).eval()
            # earlier versions left it out
            self.context = int(facts.get("context") or architecture_of(self.model.config).context(self.model.config))
        except (OSError, ValueError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0].rstrip(".:")
            raise RewardError(
                f"the reward model in {folder} cannot be loaded ({first}): make it with udrl prefer"
            ) from error

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Return the value of each pair."""
        rows = pair_ids(self.tokenizer, inputs, completions, context=self.context)
        return [1 / (1 + math.exp(min(700.0, (self.mean - x) / self.deviation))) for x in logits_of(self.model, rows)]
