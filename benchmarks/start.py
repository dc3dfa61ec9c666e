"""From process start to the first word: `udrl generate` with an exported student, and with the same in torch.

    python benchmarks/start.py [--turns 5]

A gpt2-mini of random weights, in float32. The two take turns, each in a process of its own; each line gives medians:
seconds to the first character on standard output, processor seconds of the whole process, its largest resident size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def save(folder: Path) -> None:
    """Write the folder of a student and its float32 export, which is said to have passed its verification."""
    import numpy as np

    from udrl.architecture.gpt2.scratch import scratch_gpt2
    from udrl.commands import LENGTH, Attribute, CommandSpace
    from udrl.data.tasks import load_tasks, seeds
    from udrl.export.onnx import write_graph
    from udrl.student.engines.exports import describe_sources, publishing, write_manifest
    from udrl.student.network import StudentModel, save_model
    from udrl.tokenizer import train_tokenizer
    from udrl.training.presets import PRESETS

    preset = PRESETS["gpt2-mini"]
    texts = [text for task in load_tasks(("text-to-image", "text-to-video")) for text in seeds(task)]
    tokenizer: Any = train_tokenizer(texts, preset.vocab_size)
    values = {"t": {LENGTH: np.random.default_rng(0).integers(3, 60, 1000).tolist()}}
    space = CommandSpace.fit(len(tokenizer), (Attribute(LENGTH, 1, 1000, "words"),), values)
    model = scratch_gpt2(
        vocab_size=space.base, layers=preset.layers, width=preset.width, heads=preset.heads, context=preset.context,
        eos=tokenizer.eos_token_id, seed=0, copying=False,
    )  # fmt: skip
    student = StudentModel(model, space)
    save_model(student, folder)
    tokenizer.save_pretrained(folder)
    space.save(folder)
    with publishing(folder, "onnx-fp32") as place:
        write_graph(student, place, quantised=False)
        write_manifest(
            place, format="onnx", precision="fp32", context=preset.context, parameters=student.parameter_count,
            layers=preset.layers, heads=preset.heads, width=preset.width, sources=describe_sources(folder),
            verification={"passed": True}, versions={},
        )  # fmt: skip


def run(folder: Path, engine: str) -> tuple[float, float, float]:
    """Answer once; return seconds to the first word, processor seconds, and megabytes."""
    command = [
        sys.executable,
        "-m",
        "udrl",
        "generate",
        "--run",
        str(folder),
        "--engine",
        engine,
        "--stream",
        "--max-tokens",
        "24",
    ]
    started = time.perf_counter()
    with subprocess.Popen([*command, "a red fox in the snow"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        first = time.perf_counter() - started
        process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return first, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "student"
        saving = multiprocessing.get_context("spawn").Process(target=save, args=(folder,))
        saving.start()  # apart: a process begins with the largest size of the one that starts it
        saving.join()
        found: dict[str, list[tuple[float, float, float]]] = {"onnx-fp32": [], "torch": []}
        for _ in range(options.turns):
            for engine, of in found.items():
                of.append(run(folder, engine))
        for engine, of in found.items():
            first, processor, size = (statistics.median(one) for one in zip(*of, strict=True))
            fastest = min(one[0] for one in of)
            print(
                f"{engine}: first word after {first:.2f} s (fastest {fastest:.2f}), "
                f"{processor:.2f} s of processor time, {size:.0f} MB"
            )


if __name__ == "__main__":
    main()
