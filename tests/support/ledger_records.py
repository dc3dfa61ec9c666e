"""Responses of a built-in teacher, as a ledger holds them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from udrl.data.inputs import input_id
from udrl.data.ledger import Ledger, LedgerRecord
from udrl.data.tasks import load_tasks

TASKS = load_tasks(["text-to-image", "search-query"])


WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "tu") for b in ("rin", "sot", "vel", "pax", "dum", "gol")]


def sentences(rng: random.Random) -> str:
    """Return four to six sentences of two to four words."""
    said = [" ".join(rng.choices(WORDS, k=rng.randint(2, 4))).capitalize() for _ in range(rng.randint(4, 6))]
    return ". ".join(said) + "."


def response(task: str, text: str, sample: int, completion: str | None = None, **changes: Any) -> LedgerRecord:
    rng = random.Random(f"{task}/{text}/{sample}")
    base = LedgerRecord(
        schema=1,
        key=f"{rng.getrandbits(128):032x}",
        status="ok",
        error=None,
        attempts=1,
        task=task,
        input_id=input_id(text),
        input=text,
        messages=[{"role": "user", "content": text}],
        completion=completion if completion is not None else sentences(rng),
        finish_reason="stop",
        teacher="builtin",
        revision=None,
        sampling={"fidelity": 0.5},
        seed=rng.getrandbits(31),
        sample=sample,
        prompt_tokens=None,
        completion_tokens=None,
        started=0.0,
        seconds=0.0,
    )
    return replace(base, **changes)


def many(inputs: int) -> list[LedgerRecord]:
    texts = [f"{WORDS[n % 30]} number {n}" for n in range(inputs)]
    return [response(task.name, text, k) for task in TASKS for text in texts for k in range(4)]


def ledger_of(folder: Path, records: list[LedgerRecord]) -> Ledger:
    with Ledger(folder, shard_bytes=50_000) as ledger:
        for record in records:
            ledger.append(record)
    return Ledger(folder)
