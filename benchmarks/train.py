"""Training speed: udrl's packed step beside a padded step through transformers' own forward.

    python benchmarks/train.py [--model mini|100m] [--pairs 7]

Same weights, data and batch; float32 on both sides; the two are interleaved, and the ratio of real (non-padding)
tokens per second is given with the range over the pairs. Losses must agree within 1 %.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from udrl.commands import Attribute, CommandSpace
from udrl.student.initialise import scratch_gpt2
from udrl.student.model import StudentModel
from udrl.student.packing import pack
from udrl.student.presets import PRESETS

SHAPES = {"mini": ("gpt2-mini", 32), "100m": ("gpt2-100m", 16)}


def lengths(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Prompt and completion lengths in tokens, log-normal: medians 22 and 30, as in the demo's data."""
    prompts = np.exp(rng.normal(np.log(22), 0.4, count)).clip(4, 120).astype(int)
    completions = np.exp(rng.normal(np.log(30), 0.6, count)).clip(3, 200).astype(int)
    return list(zip(prompts.tolist(), completions.tolist(), strict=True))


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="mini")
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    name, batch_size = SHAPES[options.model]
    preset = PRESETS[name]
    rng = np.random.default_rng(0)
    base = preset.vocab_size
    values = {"t": {"relevance": rng.random(1000).tolist(), "length": rng.integers(3, 60, 1000).tolist()}}
    space = CommandSpace.fit(base, (Attribute("relevance", 0, 1), Attribute("length", 1, 1000)), values)
    model = scratch_gpt2(
        vocab_size=base, layers=preset.layers, width=preset.width, heads=preset.heads, context=512, eos=0, seed=0
    )
    student = StudentModel(model, space)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    control = space.render("t", {"relevance": 4.0, "length": 4.0})

    def sequences() -> tuple[list[list[int]], list[list[int]]]:
        made = lengths(rng, batch_size)
        prompts = [[*rng.integers(1, base, p).tolist(), *control] for p, _ in made]
        return prompts, [[*rng.integers(1, base, c).tolist(), 0] for _, c in made]

    def ours(prompts: list[list[int]], completions: list[list[int]]) -> torch.Tensor:
        return student.losses(pack(prompts, completions)).mean()

    def padded(prompts: list[list[int]], completions: list[list[int]]) -> torch.Tensor:
        longest = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        labels = torch.full((len(prompts), longest), -100)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
            ids[row, : len(p) + len(c)] = torch.tensor([*p, *c])
            labels[row, len(p) : len(p) + len(c)] = torch.tensor(c)
            mask[row, : len(p) + len(c)] = 1
        loss: torch.Tensor = model(inputs_embeds=student.embed(ids), attention_mask=mask, labels=labels).loss
        return loss

    def step(kind: str, data: tuple[list[list[int]], list[list[int]]]) -> tuple[float, float]:
        started = time.perf_counter()
        loss = ours(*data) if kind == "udrl" else padded(*data)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        real = sum(len(p) + len(c) for p, c in zip(*data, strict=True))
        return real / (time.perf_counter() - started), loss.item()

    student.train()
    for kind in ("udrl", "padded"):
        step(kind, sequences())
    ratios, speeds = [], []
    for _ in range(options.pairs):
        data = sequences()
        (mine, loss), (theirs, other) = step("udrl", data), step("padded", data)
        assert abs(loss - other) <= 0.01 * other, f"the losses differ: {loss} and {other}"
        ratios.append(mine / theirs)
        speeds.append(mine)
    print(
        f"{name}, batch {batch_size}, fp32, {torch.get_num_threads()} threads: udrl {statistics.median(speeds):,.0f} "
        f"real tokens/s, {statistics.median(ratios):.2f} times a padded step "
        f"[{min(ratios):.2f}, {max(ratios):.2f}] over {options.pairs} pairs"
    )


if __name__ == "__main__":
    main()
