"""Hostile texts as inputs and as completions, through synthesis, training, every export, and onto a page.

Wrong is: an id of a command or a special token in what a text encodes to, or that was written; a text that does not
come back; a call that ends in anything but an answer, or, for half a surrogate pair, in a usage error; markup of a text
that a parser of the page takes for markup.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from faults.hostile_texts import ATTRIBUTE, TAG, hostile_texts
from udrl.commands import Command
from udrl.errors import UsageError

TASK = "text-to-image"
TRIALS, HALVES, MOST = 10_000, 200, 8


def run(folder: Path, *, scale: float, seed: int) -> dict[str, Any]:
    """Return how many texts went through and how many went wrong where."""
    from udrl.eval.pages.episodes import episodes_report
    from udrl.student.student import load_student

    warnings.simplefilter("ignore")
    texts = hostile_texts(max(60, round(TRIALS * scale)), seed)
    place = folder / "run"
    if not (place / "student").is_dir():
        _train(place, folder / "recorded.jsonl", texts, seed)
    student = load_student(place, device="cpu", precision="fp32", engine="torch")
    student.sampling = replace(student.sampling, temperature=0.9, max_tokens=MOST)
    wrong: Counter[str] = Counter(_encoded(student, texts))
    written = {name: _written(student, answer, texts, wrong, name) for name, answer in _answerers(student, folder)}
    wrong += _halves(student, hostile_texts(max(10, round(HALVES * scale)), seed, halves=True))
    page = episodes_report(place).page
    wrong["pages: markup escaped"] += escaped(page.read_text(encoding="utf-8"))
    return {
        "texts": len(texts),
        "episodes": _count(place),
        "written": written,
        "wrong": {name: count for name, count in wrong.items() if count},
    }


def _train(place: Path, recorded: Path, texts: Sequence[str], seed: int) -> None:
    from udrl.teacher.synthesis.synth import synth
    from udrl.training.train import train

    rows = [
        {"input": text, "output": f"{other} {text} of soft light at dawn"}
        for text, other in zip(texts, [*texts[1:], texts[0]], strict=True)
    ]
    recorded.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    synth(place, teacher=f"recorded:{recorded}", tasks=(TASK,), rewards=("novelty",), seed=seed)
    train(place, student="gpt2-700k", init="random", steps=30, batch_size=8, signs_inputs=0, calibration_inputs=1,
          device="cpu", precision="fp32", seed=seed)  # fmt: skip


def _encoded(student: Any, texts: Sequence[str]) -> dict[str, int]:
    from udrl.tokenizer import decode, encode

    ids = encode(student.tokenizer, texts)
    special = set(student.tokenizer.all_special_ids)
    return {
        "encoding: control ids": sum(max(one) >= student.space.base for one in ids),
        "encoding: special ids": sum(not special.isdisjoint(one) for one in ids),
        "encoding: other text back": sum(
            decode(student.tokenizer, one) != t for one, t in zip(ids, texts, strict=True)
        ),
    }


Answer = Callable[[list[str], list[list[int]]], Sequence[Any]]


def _answerers(student: Any, folder: Path) -> list[tuple[str, Answer]]:
    """Return what answers, by name: ids where a program shows them, else texts."""
    from udrl.errors import is_installed
    from udrl.export.ctranslate2 import CTranslate2Answerer, write_ctranslate2
    from udrl.export.gguf import FILE, write_gguf
    from udrl.export.llamacpp import LlamaCppAnswerer
    from udrl.export.onnx import write_graph
    from udrl.export.verification import EngineAnswerer
    from udrl.student.engines.exports import Export
    from udrl.student.engines.onnx import OnnxEngine
    from udrl.student.student import Student

    found: list[tuple[str, Answer]] = [("torch", EngineAnswerer(student, 0).greedy)]
    model, config = student.computes.model, student.computes.model.model.config
    facts = {"parameters": 0, "context": student.computes.context, "layers": config.n_layer, "heads": config.n_head,
             "width": config.n_embd}  # fmt: skip
    for precision in ("fp32", "int8") if is_installed("onnxruntime") else ():
        place = folder / f"onnx-{precision}"
        place.mkdir(exist_ok=True)
        write_graph(model, place, quantised=precision == "int8")
        engine = OnnxEngine(Export(place.name, place, {**facts, "precision": precision}), student.space)
        other = Student(engine, student.tokenizer, name=place.name, sampling=student.sampling)
        found.append((place.name, EngineAnswerer(other, 0).greedy))
    plain = Student(student.computes, student.tokenizer, name="plain",
                    sampling=replace(student.sampling, temperature=0.0, no_repeat=0))  # fmt: skip
    if is_installed("ctranslate2"):
        (folder / "ctranslate2").mkdir(exist_ok=True)
        write_ctranslate2(model, student.tokenizer, folder / "ctranslate2", quantised=False)
        found.append(("ctranslate2-fp32", CTranslate2Answerer(plain, folder / "ctranslate2").greedy))
    if is_installed("xllamacpp"):
        write_gguf(model, student.tokenizer, folder, name="hostile", quantised=False)
        found.append(("gguf-fp32", LlamaCppAnswerer(plain, folder / FILE).greedy))
    return found


def _written(student: Any, answer: Answer, texts: Sequence[str], wrong: Counter[str], name: str) -> int:
    """Let ``answer`` write for every text, count the ids that are no text, and return how many it answered."""
    control = student.space.render(TASK, {})
    special = set(student.tokenizer.all_special_ids)
    count = 0
    for start in range(0, len(texts), 500):
        part = list(texts[start : start + 500])
        try:
            made = answer(part, [control] * len(part))
        except Exception as error:  # noqa: BLE001 - whatever ends a call is counted
            wrong[f"{name}: {type(error).__name__}"] += len(part)
            continue
        count += len(made)
        for one in made:
            if not isinstance(one, str):
                wrong[f"{name}: control ids"] += any(i >= student.space.base for i in one)
                wrong[f"{name}: special ids"] += not special.isdisjoint(one)
            else:
                wrong[f"{name}: control tokens"] += "[unused " in one
    return count


def _halves(student: Any, texts: Sequence[str]) -> Counter[str]:
    wrong: Counter[str] = Counter()
    for text in texts:
        try:
            student.generate([text], [Command(TASK)])
            wrong["half a character was answered"] += 1
        except UsageError:
            pass
        except Exception as error:  # noqa: BLE001
            wrong[f"half a character: {type(error).__name__}"] += 1
    return wrong


class _Seen(HTMLParser):
    """Counts what no page of ours has."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.count = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += tag == TAG or any(name == ATTRIBUTE for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        self.count += tag == TAG


def escaped(page: str) -> int:
    """Return how many pieces of hostile markup a parser of ``page`` takes for markup."""
    seen = _Seen()
    seen.feed(page)
    seen.close()
    return seen.count


def _count(place: Path) -> int:
    from udrl.data.episodes import read_episodes

    return len(read_episodes(place / "episodes"))
