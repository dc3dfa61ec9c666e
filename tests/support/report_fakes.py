"""Benchmarks of made-up texts and scores, in the files that real ones leave: what the report is made of."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from udrl.data.inputs import input_id
from udrl.eval.completions import Block, Completion, SystemFacts, write_blocks
from udrl.eval.scores import Scores, write_scores
from udrl.eval.summary import build_summary, write_summary
from udrl.metrics import copy_rate
from udrl.words import count_words

WORDS = [f"word{number}" for number in range(3000)]
SYSTEMS: Mapping[str, tuple[str, float]] = {
    "student@matched": ("student", 0.70),
    "student@open": ("student", 0.60),
    "llama3": ("reference", 0.72),
    "echo": ("baseline", 1.0),
    "shuffled": ("baseline", 0.1),
}
"""Name -> kind, mean relevance."""

JUDGE = {
    "name": "judge <b>",
    "model": "m",
    "systems": {
        "student@matched": {
            "llama3": {
                "items": 20, "failed": 0, "win_rate": 0.4, "win_rate_ci95": [0.2, 0.6], "consistency": 0.8,
                "consistency_ci95": [0.6, 0.9], "ties": 0.1, "first_position": 0.55, "agreement": 0.6,
                "agreement_ci95": [0.4, 0.8], "length_controlled_win_rate": None,
                "length_controlled_win_rate_ci95": None,
            }
        }
    },
}  # fmt: skip


def following(tasks: Sequence[str]) -> dict[str, Any]:
    """Figures of a student that obeys nearly, better than without calibration."""
    curve = [[k / 10, k / 10 + 0.02, k / 10, k / 10 + 0.04] for k in range(1, 10)]
    part = {
        "spearman": 0.9, "spearman_within_input": 0.8, "error": 0.2, "range": 0.9, "violations": 0,
        "reachable": [0.1, 0.9], "curve": curve, "leakage": {"length": 0.1}, "uncalibrated": None,
    }  # fmt: skip
    before = {**part, "spearman_within_input": 0.7, "curve": [[c, 0.5 * a, 0.4 * a, 0.6 * a] for c, a, _, _ in curve]}
    whole = {**part, "uncalibrated": before, "per_task": dict.fromkeys(tasks, part)}
    return {"student": {"relevance": whole}}


def made(
    folder: Path,
    inputs: Mapping[str, Sequence[str]],
    *,
    systems: Mapping[str, tuple[str, float]] = SYSTEMS,
    words: int = 15,
    samples: int = 2,
    seed: int = 0,
    shift: float = 0.0,
    texts: Mapping[tuple[str, str], str] | None = None,
    judge: Mapping[str, Any] | None = None,
    title: str = "Made up",
) -> Path:
    """Write a benchmark's files, without report.html, and return its folder.

    inputs: task -> texts; systems: name -> kind, mean relevance; words: mean length; shift: what is added to the
    relevance of students; texts: (system, input) -> its first completion instead of a made-up one.
    """
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    blocks, relevance = [], []
    for name, (kind, mean) in systems.items():
        facts = SystemFacts(
            name,
            kind,  # type: ignore[arg-type]
            parameters=4_400_000 if kind == "student" else 8_000_000_000 if kind == "reference" else None,
            latency_ms=None if kind == "baseline" else (20.0, 35.5) if kind == "student" else (900.0, 2000.0),
            tokens_per_second=None if kind == "baseline" else 1234.5,
            student="student" if kind == "student" else None,
        )
        rows = []
        for task, asked in inputs.items():
            for text in asked:
                base = mean + 0.1 * random.Random(text).gauss(0, 1)  # some inputs are easier than others
                for sample in range(samples):
                    said = (texts or {}).get((name, text)) if sample == 0 else None
                    written = " ".join(rng.choices(WORDS, k=max(1, words + rng.randint(-5, 5))))
                    rows.append(
                        Completion(
                            name, name, "comparison", task, input_id(text), text, sample, rng.randrange(1 << 30),
                            said or written, targets={"length": 20.0} if "matched" in name else {},
                            finish_reason="stop", tokens=20,
                        )
                    )  # fmt: skip
                    relevance.append(base + (shift if kind == "student" else 0.0) + 0.02 * noise.normal())
        blocks.append(Block(name, "key", facts, tuple(rows)))
    rows = [row for block in blocks for row in block.rows]
    values = np.clip(np.array(relevance), 0, 1)
    vectors = noise.normal(size=(len(rows), 8)).astype(np.float32)
    columns = {
        "relevance": values,
        "relevance_second": np.clip(values - 0.05, 0, 1),
        "copy_rate": np.array([copy_rate(row.input, row.completion or "") for row in rows]),
        "novelty": np.full(len(rows), 0.9),
        "length": np.array([float(count_words(row.completion or "")) for row in rows]),
        "truncated": np.zeros(len(rows)),
        "unknown": np.zeros(len(rows)),
    }
    references = [name for name, (kind, _) in systems.items() if kind == "reference"]
    agreement = {ref: np.clip(values - 0.1 * noise.random(len(rows)), 0, 1) for ref in references}
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = Scores(tuple(rows), columns, agreement, vectors, rewards={"brevity": noise.random(len(rows))})
    about = {"suite": "made-up", "encoder": "e", "second_encoder": "e2", "hardware": "none", "seed": seed}
    summary = build_summary(
        scores,
        [block.facts for block in blocks],
        references=references,
        about=about,
        command_following=following(list(inputs)),
        judge=judge,
    )
    folder.mkdir(parents=True)
    write_blocks(folder, blocks, about={"title": title, "description": "For tests.", "notes": ["One note."]})
    write_scores(folder, scores, encoder="e", second_encoder="e2")
    write_summary(folder, summary)
    return folder


def inputs(tasks: Sequence[str], count: int, *, words: int = 8, seed: int = 0) -> dict[str, list[str]]:
    """Made-up inputs, ``count`` of each task."""
    rng = random.Random(seed)
    return {task: [f"{task} {n} " + " ".join(rng.choices(WORDS, k=words)) for n in range(count)] for task in tasks}
