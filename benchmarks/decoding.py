"""The decode loop beside the one before it, whose draws were torch's: how long the same completions take.

    python benchmarks/decoding.py [--rows 1 32 128] [--turns 9] [--new-tokens 48] [--engine torch|onnx]

A gpt2-mini of random weights, prompts of 8 to 40 ids, sampling as students ship (temperature 0.2, top-p 0.95, no run of
5 ids twice), every completion as long as --new-tokens. The two take turns; each line gives the median of seconds, the
median ratio of a turn with its range, and for how many rows the ids are equal.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.decoding.engine import Engine
from udrl.decoding.loop import decode_batch
from udrl.decoding.sampling import CANDIDATES, Runs, Sampling
from udrl.export.onnx import write_graph
from udrl.student.engines.exports import Export
from udrl.student.engines.onnx import OnnxEngine
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.training.presets import PRESETS

SAMPLING = Sampling(temperature=0.2, top_p=0.95, no_repeat=5)
Loop = Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]


def network() -> StudentModel:
    """Return a student of random weights."""
    preset, rng = PRESETS["gpt2-mini"], np.random.default_rng(0)
    values = {"t": {LENGTH: rng.integers(3, 60, 1000).tolist()}}
    space = CommandSpace.fit(preset.vocab_size, (Attribute(LENGTH, 1, 1000, "words"),), values)
    model = scratch_gpt2(
        vocab_size=space.base, layers=preset.layers, width=preset.width, heads=preset.heads, context=preset.context,
        eos=0, seed=0, copying=False,
    )  # fmt: skip
    return StudentModel(model, space)


def in_onnx(student: StudentModel, folder: Path) -> Engine:
    """Return the same student in ONNX Runtime."""
    preset = PRESETS["gpt2-mini"]
    write_graph(student, folder, quantised=False)
    facts = {"parameters": 0, "context": preset.context, "layers": preset.layers, "heads": preset.heads,
             "width": preset.width, "precision": "fp32"}  # fmt: skip
    return OnnxEngine(Export("onnx-fp32", folder, facts), student.space)


def before(engine: Engine, new: int) -> Loop:
    """Return the loop as it was: the logits stay torch's, and torch sorts them."""

    @torch.inference_mode()
    def write(prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[list[int]]:
        draws = np.stack([np.random.default_rng(seed).random(new) for seed in seeds])
        runs = [Runs(SAMPLING.no_repeat) for _ in prompts]
        written: list[list[int]] = [[] for _ in prompts]
        session, logits = engine.start(prompts)
        for step in range(new):
            shown = torch.from_numpy(logits)
            banned = [one.banned() for one in runs]
            if rows := [row for row, ids in enumerate(banned) for _ in ids]:
                shown[rows, [token for ids in banned for token in ids]] = float("-inf")
            ids = chosen(shown, torch.from_numpy(draws[:, step]))
            for row, token in enumerate(ids.tolist()):
                written[row].append(token)
                runs[row].add(written[row])
            if step < new - 1:
                logits = session.step(ids.numpy())
        return written

    return write


def chosen(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one id a row as it was done before."""
    probabilities, order = torch.softmax(logits / SAMPLING.temperature, -1).topk(min(logits.shape[-1], CANDIDATES))
    reached = probabilities.cumsum(-1)
    inside = reached - probabilities < SAMPLING.top_p
    kept = torch.where(inside, probabilities, torch.zeros_like(probabilities)).double().cumsum(-1)
    place = (kept < uniform[:, None] * kept[:, -1:]).sum(-1).clamp(max=order.shape[-1] - 1)
    return order.gather(-1, place[:, None]).squeeze(-1)


def after(engine: Engine, new: int) -> Loop:
    """Return the loop as it is."""

    def write(prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[list[int]]:
        limits = [new] * len(prompts)
        return [one.ids for one in decode_batch(engine, prompts, seeds, sampling=SAMPLING, limits=limits, end=-1)]

    return write


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--engine", choices=["torch", "onnx"], default="torch")
    options = parser.parse_args()
    student = network()
    with tempfile.TemporaryDirectory() as scratch:
        engine = TorchEngine(student) if options.engine == "torch" else in_onnx(student, Path(scratch))
        ways = {"before": before(engine, options.new_tokens), "after": after(engine, options.new_tokens)}
        print(f"{options.engine}, {options.new_tokens} ids a completion, {torch.get_num_threads()} threads")
        for rows in options.rows:
            rng = np.random.default_rng(rows)
            prompts = [rng.integers(1, student.space.base, rng.integers(8, 41)).tolist() for _ in range(rows)]
            measure(ways, prompts, options.turns)


def measure(ways: dict[str, Loop], prompts: list[list[int]], turns: int) -> None:
    """Print the times of both ways, which take turns."""
    seeds = list(range(len(prompts)))
    written = [way(prompts, seeds) for way in ways.values()]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in sorted(ways, reverse=bool(turn % 2)):
            started = time.perf_counter()
            ways[name](prompts, seeds)
            seconds[name].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(seconds["after"], seconds["before"], strict=True)]
    same = sum(a == b for a, b in zip(*written, strict=True))
    print(
        f"{len(prompts)} rows: {statistics.median(seconds['before']):.3f} s before, "
        f"{statistics.median(seconds['after']):.3f} s after, {statistics.median(ratios):.2f} times "
        f"[{min(ratios):.2f}, {max(ratios):.2f}]; the same ids for {same} of {len(prompts)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
