"""The decode loop beside the one before it, whose draws were torch's, and rows that join beside rows that wait.

    python benchmarks/decoding.py [--rows 1 32 128] [--turns 9] [--new-tokens 48] [--engine torch|onnx] [--seats 32]

A gpt2-mini of random weights, prompts of 8 to 40 ids, sampling as students ship (temperature 0.2, top-p 0.95, no run of
5 ids twice). First every completion is as long as --new-tokens. Then lengths are mixed, 1 to twice as many, for four
times as many requests as there are --seats: a request takes the seat of one that has ended, or all wait for the next
wave. At last a request arrives every so often, so that half the seats are taken on average, and joins those that write,
or waits until they have ended: what is measured is the mean time from its arrival to its end. The two ways take turns;
each line gives the median of seconds, the median ratio of a turn with its range, and for how many the ids are equal.
Seconds are the processor's, which other programs do not change (all threads together), but for those of arrivals.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.decoding.engine import Engine
from udrl.decoding.loop import Decoder, decode_batch
from udrl.decoding.requests import Request
from udrl.decoding.sampling import CANDIDATES, Runs, Sampling
from udrl.export.onnx import write_graph
from udrl.student.engines.exports import Export
from udrl.student.engines.onnx import OnnxEngine
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.training.presets import PRESETS

SAMPLING = Sampling(temperature=0.2, top_p=0.95, no_repeat=5)
Timed = tuple[float, list[list[int]]]
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


class Waves(Decoder):
    """Lets requests wait until all that write have ended."""

    def _admitted(self) -> list[Any]:
        return [] if self.batch is not None else super()._admitted()


def crowd(kind: type[Decoder], engine: Engine, requests: Sequence[Request], seats: int, every: float = 0.0) -> Timed:
    """Return seconds and ids of ``requests``, one of which comes each ``every`` seconds (0: all at once).

    The seconds are those from the arrival to the end, on average, or until all have ended where they come at once.
    """
    clock = time.perf_counter if every else time.process_time
    decoder, ended, written = kind(engine, seats), [0.0] * len(requests), [list[int]()] * len(requests)
    started, coming = clock(), 0
    while coming < len(requests) or decoder:
        while coming < len(requests) and clock() - started >= coming * every:
            decoder.add(requests[coming])
            coming += 1
        for step in decoder.step() if decoder else ():
            if step.decoded is not None:
                ended[step.handle] = clock() - started - step.handle * every
                written[step.handle] = step.decoded.ids
    return statistics.fmean(ended) if every else max(ended), written


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--engine", choices=["torch", "onnx"], default="torch")
    parser.add_argument("--seats", type=int, default=32)
    options = parser.parse_args()
    student, new = network(), options.new_tokens
    with tempfile.TemporaryDirectory() as scratch:
        engine = TorchEngine(student) if options.engine == "torch" else in_onnx(student, Path(scratch))
        print(f"{options.engine}, {new} ids a completion, {torch.get_num_threads()} threads")
        for rows in options.rows:
            asked = requests(student, rows, [new] * rows)
            pair = {"before": before(engine, new), "after": after(engine, new)}
            measure(f"{rows} rows", {name: timed(way, asked) for name, way in pair.items()}, options.turns)
        count = 4 * options.seats
        mixed = requests(student, count, np.random.default_rng(1).integers(1, 2 * new, count).tolist())
        kinds = {"waves": Waves, "joining": Decoder}
        at_once = {name: partial(crowd, kind, engine, mixed, options.seats) for name, kind in kinds.items()}
        whole = measure(f"{count} requests of mixed lengths", at_once, options.turns)
        arriving = {
            name: partial(crowd, kind, engine, mixed, options.seats, 2 * whole / count) for name, kind in kinds.items()
        }
        measure(f"{count} requests that arrive", arriving, options.turns)


def requests(student: StudentModel, count: int, limits: Sequence[int]) -> list[Request]:
    """Return requests that no end token ends."""
    rng = np.random.default_rng(count)
    prompts = [rng.integers(1, student.space.base, rng.integers(8, 41)).tolist() for _ in range(count)]
    return [
        Request(prompt, seed, SAMPLING, limit, (-1,))
        for seed, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]


def timed(loop: Loop, asked: Sequence[Request]) -> Callable[[], Timed]:
    """Return what measures how long ``loop`` takes."""

    def run() -> Timed:
        started = time.process_time()
        written = loop([one.prompt for one in asked], [one.seed for one in asked])
        return time.process_time() - started, written

    return run


def measure(title: str, ways: dict[str, Callable[[], Timed]], turns: int) -> float:
    """Print the times of the two ways, which take turns; return the median of the first."""
    first, second = ways
    written = {name: way()[1] for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in (first, second) if turn % 2 else (second, first):
            seconds[name].append(ways[name]()[0])
    ratios = [a / b for a, b in zip(seconds[second], seconds[first], strict=True)]
    same = sum(a == b for a, b in zip(*written.values(), strict=True))
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    print(
        f"{title}: {medians[first]:.3f} s {first}, {medians[second]:.3f} s {second}, "
        f"{statistics.median(ratios):.2f} times [{min(ratios):.2f}, {max(ratios):.2f}]; "
        f"the same ids for {same} of {len(written[first])}",
        flush=True,
    )
    return medians[first]


if __name__ == "__main__":
    main()
