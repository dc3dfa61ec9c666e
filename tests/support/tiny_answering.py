"""A student of two blocks that was never trained, with a tokenizer and a calibration: for tests of calls, not of texts.

python tests/support/tiny_answering.py FOLDER     generates with torch and ONNX Runtime, forks, and does so in the child
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import LENGTH, Attribute, Command, CommandSpace
from udrl.student.calibration import Calibration, Curve
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.student.student import SAMPLING, Student
from udrl.tokenizer import train_tokenizer

TASK = "t"
TEXTS = ("a red fox in the snow", "harbour <|endoftext|> at dawn", "猫 🦊", "an old lighthouse on a cliff, golden hour")


def tiny_student(
    *,
    precision: str = "fp32",
    context: int = 96,
    width: int = 64,
    relevance: bool = False,
    tasks: tuple[str, ...] = (TASK,),
) -> Student:
    """Return a student commanded in length; 4 to 30 words can be reached.

    relevance: it is commanded in that, too, of which 0.3 to 0.9 is reached: 0.5 to 0.9 at 4 words, 0.3 to 0.6 at 30.
    """
    tokenizer = train_tokenizer([*TEXTS, "the rain falls on the water"] * 3, 320)
    rng = np.random.default_rng(0)
    values = {
        LENGTH: rng.integers(3, 40, 600).tolist(),
        **({"relevance": rng.random(600).tolist()} if relevance else {}),
    }
    attributes = (*((Attribute("relevance", -1, 1),) if relevance else ()), Attribute(LENGTH, 1, 1000, "words"))
    space = CommandSpace.fit(len(tokenizer), attributes, dict.fromkeys(tasks, values))
    model = scratch_gpt2(
        vocab_size=len(tokenizer), layers=2, width=width, heads=2, context=context, eos=tokenizer.eos_token_id, seed=1,
        copying=False,
    )  # fmt: skip
    torch.manual_seed(0)
    positions = tuple(map(float, range(space.bins)))

    def curve(low: float, high: float, length: float, at: float | None = None) -> Curve:
        achieved = tuple(np.linspace(low, high, space.bins).tolist())
        return Curve(positions, achieved, achieved, length, at)

    last = space.bins - 1.0
    curves = {LENGTH: (curve(4, 30, 17.0),)}
    if relevance:
        curves["relevance"] = (curve(0.3, 0.9, 17.0), curve(0.5, 0.9, 4.0, 0.0), curve(0.3, 0.6, 30.0, last))
    return Student(
        TorchEngine(StudentModel(model, space), torch.bfloat16 if precision == "bf16" else torch.float32),
        tokenizer,
        name="tiny",
        calibration=Calibration(dict.fromkeys(tasks, curves), {}, 1),
        sampling=replace(SAMPLING, temperature=0.9, max_tokens=24),
    )


def commands(count: int) -> list[Command]:
    """Return commands of different lengths."""
    return [Command(TASK, {LENGTH: 5.0 + 3 * (k % 8)}) for k in range(count)]


def _written(student: Student) -> list[str]:
    return [one.completion for one in student.generate(TEXTS, commands(len(TEXTS)), seeds=3)]


def _onnx(student: Student, folder: Path) -> Student:
    """Return the same student in ONNX Runtime."""
    from udrl.export.onnx import write_graph
    from udrl.student.engines.exports import Export
    from udrl.student.engines.onnx import OnnxEngine

    assert isinstance(student.computes, TorchEngine)
    model = student.computes.model
    config = model.model.config
    write_graph(model, folder, quantised=False)
    manifest = {"precision": "fp32", "parameters": 0, "context": student.computes.context, "layers": config.n_layer,
                "heads": config.n_head, "width": config.n_embd}  # fmt: skip
    engine = OnnxEngine(Export("onnx-fp32", folder, manifest), student.space)
    kept = {"calibration": student.calibration, "sampling": student.sampling}
    return Student(engine, student.tokenizer, name="tiny", **kept)  # type: ignore[arg-type]


def save_exported(student: Student, folder: Path) -> None:
    """Write the student's folder with a float32 export that passed its verification."""
    from udrl.export.onnx import write_graph
    from udrl.student.engines.exports import describe_sources, publishing, write_manifest
    from udrl.student.network import save_model

    assert isinstance(student.computes, TorchEngine)
    assert student.calibration is not None
    model = student.computes.model
    save_model(model, folder)
    student.tokenizer.save_pretrained(folder)
    student.space.save(folder)
    student.calibration.save(folder)
    config = model.model.config
    with publishing(folder, "onnx-fp32") as place:
        write_graph(model, place, quantised=False)
        write_manifest(
            place, format="onnx", precision="fp32", context=student.computes.context,
            parameters=student.computes.parameters, layers=config.n_layer, heads=config.n_head, width=config.n_embd,
            sources=describe_sources(folder), verification={"passed": True}, versions={},
        )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(2)
    made = tiny_student()
    students = [made, _onnx(made, Path(sys.argv[1]))]
    before = [_written(one) for one in students]
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.write(writer, json.dumps([[_written(one) for one in students], torch.get_num_threads()]).encode())
        os._exit(0)
    os.close(writer)
    inside, threads = json.loads(os.fdopen(reader).read())
    status = os.waitpid(child, 0)[1]
    after = [_written(one) for one in students]
    print(json.dumps({"same": before == inside == after, "count": len(after), "threads": threads, "status": status}))
