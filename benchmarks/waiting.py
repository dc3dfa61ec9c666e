"""How threads wait for each other, alone and beside a neighbour: spinning (what libraries do by themselves) or asleep.

    python benchmarks/waiting.py [--turns 5] [--neighbours 0 1 2] [--threads 1 2]

A training step of gpt2-mini in torch (OpenMP) and a chain of 32 products of one row in ONNX Runtime, as one id of a
student needs; each measured in a process of its own, the two ways in turn. A neighbour is a process that keeps one
core busy. Each line: median milliseconds of a step and their range over the turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

WAYS = {"spin": "active", "sleep": "passive"}
BUSY = "while True: pass"


def training(_: str) -> float:
    """Return milliseconds of a training step."""
    import torch
    from torch.nn.functional import cross_entropy

    from udrl.architecture.gpt2.scratch import scratch_gpt2

    model = scratch_gpt2(vocab_size=4096, layers=4, width=256, heads=4, context=256, eos=0, seed=0)
    ids = torch.randint(0, 4096, (12, 64), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        loss = cross_entropy(model(ids).logits.flatten(0, 1), ids.flatten())
        loss.backward()
        model.zero_grad()

    return timed(step, 12)


def answering(way: str) -> float:
    """Return milliseconds of a chain of products in ONNX Runtime."""
    from onnx import TensorProto, helper, numpy_helper

    from udrl.hardware import onnx_runtime, threads

    width, count = 512, 32
    weights = np.random.default_rng(0).standard_normal((width, width), dtype=np.float32) / 23
    nodes = [helper.make_node("MatMul", [f"x{n}", "weights"], [f"x{n + 1}"]) for n in range(count)]
    value = (helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, [1, width]) for n in (0, count))
    constants = [numpy_helper.from_array(weights, "weights")]
    graph = helper.make_graph(nodes, "chain", [next(value)], [next(value)], constants)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    ort = onnx_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(way == "spin")))
    session = ort.InferenceSession(network, options, ["CPUExecutionProvider"])
    x = np.ones((1, width), np.float32)
    return timed(lambda: session.run(None, {"x0": x}), 1000)


def timed(step: object, count: int) -> float:
    """Return the milliseconds that one of ``count`` steps takes behind some that warm up."""
    assert callable(step)
    for _ in range(max(2, count // 10)):
        step()
    begun = time.perf_counter()
    for _ in range(count):
        step()
    return 1000 * (time.perf_counter() - begun) / count


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep ``count`` cores busy."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measured(work: str, way: str, threads: int) -> float:
    """Measure in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": WAYS[way]}
    if way == "spin":
        del environment["OMP_WAIT_POLICY"]  # what a library does by itself
    said = subprocess.run(
        [sys.executable, __file__, "--one", work, way], env=environment, check=True, capture_output=True, text=True
    )
    return float(said.stdout.split()[-1])


def main() -> None:
    """Print a line for each kind of work, number of threads and number of neighbours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--one", nargs=2, metavar=("WORK", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print({"training": training, "answering": answering}[given.one[0]](given.one[1]))
        return
    for work in ("training", "answering"):
        for threads in given.threads:
            for count in given.neighbours:
                with neighbours(count):
                    turns = [{way: measured(work, way, threads) for way in WAYS} for _ in range(given.turns)]
                told = (
                    f"{way} {statistics.median(t[way] for t in turns):7.2f} ms "
                    f"[{min(t[way] for t in turns):.2f}, {max(t[way] for t in turns):.2f}]"
                    for way in WAYS
                )
                print(f"{work:9} threads {threads} neighbours {count}: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
