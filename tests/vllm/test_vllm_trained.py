"""Students that were trained from somebody's Llama, Mistral or Qwen, the real SmolLM2 among them, in vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from beside import engine_of, written_alike
from real_weights import smollm2_at_hand
from tiny_checkpoints import put

from udrl.commands import LENGTH, Attribute, Command, CommandSpace
from udrl.student import load
from udrl.student.network import StudentModel, save_model
from udrl.student.student import Student
from udrl.tokenizer import encode
from udrl.training.admission import admit
from udrl.training.examples import Examples
from udrl.training.loop import run_loop
from udrl.training.options import LoopOptions
from udrl.words import count_words

pytestmark = pytest.mark.filterwarnings("default")  # the engine runs in this process and warns of its own parts

TASK = "t"
WORDS = ("fox", "ship", "harbour", "dawn")
LENGTHS = (3, 5, 8)
WIDE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 96}  # heads of 32
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"eos_token_id": [0, 1]},
    "mistral": {"sliding_window": 96},
    "qwen2": {},
    "qwen3": {"head_dim": 64},
}


def trained(weights: Any, folder: Path, **options: Any) -> Student:
    """Train ``weights`` to say a word as often as it is told to, which ends by each of its ends in turn; save it."""
    model, tokenizer = admit(weights)
    values = {TASK: {LENGTH: [float(3 + k % 30) for k in range(600)]}}
    space = CommandSpace.fit(len(tokenizer), (Attribute(LENGTH, 1, 1000, "words"),), values)
    made = StudentModel(model, space)
    told = [(word, length) for word in WORDS for length in LENGTHS]
    completions = encode(tokenizer, [" ".join([word] * length) for word, length in told])
    examples = Examples(
        (TASK,) * len(told),
        encode(tokenizer, [f"a {word}" for word, _ in told]),
        [[*ids, made.ends[k % len(made.ends)]] for k, ids in enumerate(completions)],
        [space.positions(TASK, {LENGTH: float(length)}) for _, length in told],
    )
    chosen = LoopOptions(batch_size=len(told), open_each=0.0, open_all=0.0, **options)
    run_loop(made, examples, chosen, dtype=torch.float32)
    tokenizer.save_pretrained(folder)
    space.save(folder)
    save_model(made, folder)
    return load(folder, device="cpu", precision="fp32")


def obeyed(student: Student, folder: Path) -> tuple[list[str], set[int]]:
    """Return what vLLM and udrl both write under commands, one of them typed, and the ends that they came to."""
    texts = [f"a {word}" for word in WORDS[:2] for _ in LENGTHS] + ["<|endoftext|> typed"]
    commands = [Command(TASK, {LENGTH: float(length)}) for _ in WORDS[:2] for length in LENGTHS] + [Command(TASK)]
    written = written_alike(engine_of(folder), student, texts, commands)
    return [text for text, _ in written], {last for _, last in written} & set(student.ends)


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_student_in_vllm_writes_what_udrl_writes(family: str, tmp_path: Path) -> None:
    weights = put(tmp_path / "weights", family, **WIDE, **FAMILIES[family])
    student = trained(str(weights), tmp_path, steps=80, learning_rate=5e-3)
    completions, ends = obeyed(student, tmp_path)
    assert [count_words(one) for one in completions[:6]] == [3, 5, 8] * 2, "it obeys"
    assert ends == set(student.ends) == ({0, 1} if family == "llama" else {0}), "each of its ends ends it"


def test_trained_smollm2_in_vllm_writes_what_udrl_writes(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("student")
    with smollm2_at_hand(tmp_path_factory) as weights:
        student = trained(weights, folder, steps=8, learning_rate=5e-4)
    completions, _ = obeyed(student, folder)
    assert student.space.base == 49_152
    assert [one.split()[0] for one in completions[:6]] == ["fox"] * 3 + ["ship"] * 3, "it has learned"
