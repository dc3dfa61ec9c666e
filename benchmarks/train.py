"""Training speed: udrl's loop beside transformers' Trainer and TRL's SFTTrainer.

    pip install "udrl[study]"
    python benchmarks/train.py [--model 14m|124m|smollm2] [--sides udrl trainer trl trl-fp32] [--repetitions 3]
        [--steps 6] [--layers N]

Every side trains the same network (a GPT-2, or one of SmolLM2-135M's shape) from the same weights on the same batches
with the same AdamW, clipped at 1, and its speed is the real (non-padding) tokens per second from the end of its first
step to the end of its last, loading of data included. ``trl`` is SFTTrainer with its own defaults (bf16, gradient
checkpointing), ``trl-fp32`` the same without both, ``trainer`` the Trainer with its defaults in udrl's precision: bf16
where the hardware multiplies it, else float32. Where it does not, TRL's bf16 is emulated: compare with ``trl-fp32``,
too. The sides take turns; the ratio to udrl is taken within a turn and given with its range over turns. The losses of
every step must agree within 1 %.

The data: random ids; prompts and completions have log-normal lengths (medians 22 and 30 tokens, sigma 0.4 and 0.6, at
most 120 and 200), as in the demo's data; commands are text, so that they are ordinary ids on every side.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import Attribute, CommandSpace
from udrl.hardware import torch_dtype
from udrl.student.network import StudentModel
from udrl.text_commands import TextCommands
from udrl.tokenizer import train_tokenizer
from udrl.training.examples import Examples
from udrl.training.loop import batches, run_loop
from udrl.training.options import LoopOptions

SHAPES = {"14m": (6, 384, 6, 8192, 32), "124m": (12, 768, 12, 50257, 16), "tiny": (2, 32, 2, 512, 4),
          "smollm2": (30, 576, 9, 49152, 16)}  # fmt: skip
"""Layers, width, heads, vocabulary, batch size. All are GPT-2s but smollm2, a Llama with a key for three heads."""
SIDES = ("udrl", "trainer", "trl", "trl-fp32")
RATE = 1e-4
TOLERANCE = 0.01


def command_space(base: int) -> CommandSpace:
    """A space of one task whose commands are text of random ids."""
    rng = np.random.default_rng(1)
    attributes = (Attribute("relevance", 0, 1), Attribute("length", 1, 1000))
    values = {"t": {"relevance": rng.random(1000).tolist(), "length": rng.integers(3, 60, 1000).tolist()}}

    def pieces(texts: Sequence[str]) -> list[list[int]]:
        return [rng.integers(1, base, 3).tolist() for _ in texts]

    text = TextCommands.make(pieces, tasks=("t",), attributes=[a.name for a in attributes], bins=10)
    fitted = CommandSpace.fit(base, attributes, values)
    return CommandSpace(**{**vars(fitted), "text": text})


def new_model(name: str, layers: int) -> Any:
    """Return a network of the shape ``name`` with random weights, and with ``layers`` blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    _, width, heads, base, _ = SHAPES[name]
    if name != "smollm2":
        return scratch_gpt2(
            vocab_size=base, layers=layers, width=width, heads=heads, context=512, eos=0, seed=0, copying=False
        )
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=base, hidden_size=width, intermediate_size=1536, num_hidden_layers=layers, eos_token_id=0,
            num_attention_heads=heads, num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=8192,
        )
    )  # fmt: skip


def data(base: int, count: int) -> Examples:
    """The fixed set: ``count`` examples of random ids."""
    rng = np.random.default_rng(0)
    prompts = np.exp(rng.normal(np.log(22), 0.4, count)).clip(4, 120).astype(int)
    completions = np.exp(rng.normal(np.log(30), 0.6, count)).clip(3, 200).astype(int)
    return Examples(
        ("t",) * count,
        [rng.integers(1, base, n).tolist() for n in prompts],
        [[*rng.integers(1, base, n).tolist(), 0] for n in completions],
        [{"relevance": float(rng.uniform(0, 9)), "length": float(rng.uniform(0, 9))} for _ in range(count)],
    )


def sequences(examples: Examples, space: CommandSpace, options: LoopOptions) -> list[dict[str, list[int]]]:
    """The same examples in the order in which udrl's loop takes them, as input ids and labels."""
    rows = []
    for index in batches(examples, space, options).tolist():
        control = space.render("t", examples.positions[index])
        prompt, completion = space.prompt(examples.inputs[index], control), examples.completions[index]
        rows.append({"input_ids": [*prompt, *completion], "labels": [*[-100] * len(prompt), *completion]})
    return rows


def of_udrl(student: StudentModel, examples: Examples, options: LoopOptions) -> tuple[list[float], list[float]]:
    """Train with udrl's loop; return the time at the end of every step, and its loss."""
    times: list[float] = []
    losses: list[float] = []

    def log(step: int, figures: Mapping[str, float]) -> None:
        times.append(time.perf_counter())
        losses.append(figures["loss"])

    device = student.rows.weight.device
    run_loop(student, examples, options, dtype=torch_dtype("auto", device), log=log)
    return times, losses


def of_trainer(
    side: str, model: Any, rows: list[dict[str, list[int]]], options: LoopOptions, folder: str
) -> tuple[list[float], list[float]]:
    """Train with the Trainer or SFTTrainer; return the time at the end of every step, and its loss."""
    from datasets import Dataset, disable_progress_bars
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    disable_progress_bars()
    tokenizer = train_tokenizer(["a"] * 3, 300)
    tokenizer.pad_token = tokenizer.eos_token
    same: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "train_sampling_strategy": "sequential",
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": options.clip,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }
    given = {"model": model, "train_dataset": Dataset.from_list(rows), "callbacks": [Clock()]}
    if side == "trainer":
        collator = DataCollatorForSeq2Seq(tokenizer)
        bf16 = torch_dtype("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu")) == torch.bfloat16
        trainer = Trainer(args=TrainingArguments(**same, bf16=bf16), data_collator=collator, **given)
    else:
        from trl import SFTConfig, SFTTrainer

        plain = {} if side == "trl" else {"bf16": False, "gradient_checkpointing": False}
        trainer = SFTTrainer(args=SFTConfig(**same, **plain), processing_class=tokenizer, **given)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return times, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Measure and print one line a side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="14m")
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=SIDES)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="the first is not timed")
    parser.add_argument("--layers", type=int, help="another number of blocks than the model's, for a quick look")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="on udrl's side")
    given = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    layers, _, _, base, batch_size = SHAPES[given.model]
    space = command_space(base)
    options = LoopOptions(
        steps=given.steps, batch_size=batch_size, micro_batch=batch_size, learning_rate=RATE, warmup=0.0,
        schedule="constant", weight_decay=0.0, open_each=0.0, open_all=0.0, checkpointing=given.gradient_checkpointing,
    )  # fmt: skip
    examples = data(base, given.steps * batch_size)
    rows = sequences(examples, space, options)
    tokens = sum(len(row["input_ids"]) for row in rows[batch_size:])
    model = new_model(given.model, given.layers or layers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speeds: dict[str, list[float]] = {side: [] for side in given.sides}
    first: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.repetitions):
            for side in given.sides:
                own = copy.deepcopy(model).to(device)
                if side == "udrl":
                    times, losses = of_udrl(StudentModel(own, space).to(device), examples, options)
                else:
                    times, losses = of_trainer(side, own, rows, options, folder)
                first = first or losses
                for step, (one, other) in enumerate(zip(first, losses, strict=True)):
                    if abs(one - other) > TOLERANCE * one:
                        raise SystemExit(f"the losses of step {step} differ: {one} and, by {side}, {other}")
                speeds[side].append(tokens / (times[-1] - times[0]))
    print(
        f"{given.model} ({sum(p.numel() for p in model.parameters()) / 1e6:.1f}M), batch {batch_size}, {device}, "
        f"{torch.get_num_threads()} threads, {given.repetitions} turns of {given.steps - 1} timed steps of "
        f"{tokens / (given.steps - 1):,.0f} real tokens"
    )
    for side, found in speeds.items():
        line = f"{side:9s} {statistics.median(found):8,.0f} real tokens/s [{min(found):,.0f}, {max(found):,.0f}]"
        if side != "udrl" and "udrl" in speeds:
            ratios = [mine / theirs for mine, theirs in zip(speeds["udrl"], found, strict=True)]
            line += f"; udrl {statistics.median(ratios):.2f} x [{min(ratios):.2f}, {max(ratios):.2f}]"
        print(line)


if __name__ == "__main__":
    main()
