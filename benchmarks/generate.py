"""Answering speed on a CPU: `Student.generate` on every engine beside transformers' `model.generate`.

    python benchmarks/generate.py [--model gpt2|mini|smollm2] [--ways NAME...] [--requests 9] [--rounds 3]
        [--new-tokens 48] [--batch 32] [--processor-time]

End to end: inputs and commands go in, text comes out; 40-id prompts (the command included), greedy, every completion as
long as --new-tokens. GPT-2s have random weights: no figure here depends on what they are. smollm2 is the real one, and
llama.cpp reads its own file of it, too, in Q4_1. Engines take turns; each line gives the median and, against
transformers in float32 in the same turn, the median ratio with its range. Batch 1: milliseconds a request. Batch 32:
completion tokens a second. Each line says how many texts are the same as transformers'. On a crowded machine, give
OMP_NUM_THREADS=1 and --processor-time, which counts the seconds that the process itself computes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import LENGTH, Attribute, Command, CommandSpace
from udrl.data.tasks import load_tasks, seeds
from udrl.decoding.sampling import Sampling
from udrl.export.ctranslate2 import CTranslate2, write_ctranslate2
from udrl.export.gguf import FILE, write_gguf
from udrl.export.llamacpp import LlamaCpp
from udrl.export.onnx import write_graph
from udrl.export.parts import exporter_of
from udrl.student.engines.exports import Export
from udrl.student.engines.onnx import OnnxEngine
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel, save_model
from udrl.student.student import Student
from udrl.tokenizer import END, decode, encode, train_tokenizer
from udrl.training.admission import admit
from udrl.training.presets import FROM_SCRATCH, PRESETS, SMOLLM2_PACKAGE
from udrl.weights.sources import find_weights, packaged

PROMPT = 40
Way = Callable[[list[str]], list[str]]


def large_tokenizer(texts: list[str], size: int) -> Any:
    """Return a byte-level BPE of exactly ``size`` ids: trained on ``texts``, then filled up with made-up merges."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    data = json.loads(train_tokenizer(texts, min(size, 1500)).backend_tokenizer.to_str())
    vocabulary, merges = data["model"]["vocab"], data["model"]["merges"]
    rng = np.random.default_rng(0)
    names = [name for name in vocabulary if name != END]
    while len(vocabulary) < size:
        left, right = (names[k] for k in rng.integers(0, len(names), 2))
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append([left, right])
            names.append(left + right)
    made = Tokenizer.from_str(json.dumps(data))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, bos_token=END, model_max_length=1024)


def prompts(tokenizer: Any, texts: list[str], count: int, length: int) -> list[str]:
    """Return ``count`` texts of exactly ``length`` ids."""
    rng, made = np.random.default_rng(1), []
    words = sorted({word for text in texts for word in text.split()})
    while len(made) < count:
        ids = encode(tokenizer, [" ".join(rng.choice(words, length))])[0][:length]
        text = decode(tokenizer, ids)
        if len(encode(tokenizer, [text])[0]) == length:
            made.append(text)
    return made


@dataclass(frozen=True)
class Measured:
    """What is measured. never: an id that no greedy completion has, so that none ends before its time."""

    network: StudentModel
    tokenizer: Any
    control: list[int]
    new: int
    batch: int
    never: int

    def ids(self, inputs: list[str]) -> list[list[int]]:
        """Return the prompts of ``inputs``."""
        return [self.network.space.prompt(text, self.control) for text in encode(self.tokenizer, inputs)]

    def text(self, ids: Any) -> str:
        """Return a completion as text, as udrl does."""
        return decode(self.tokenizer, list(ids)).rstrip("\ufffd")


COMMAND = Command("t", {"relevance": 0.6, LENGTH: 30})


def to_measure(name: str, texts: list[str], new: int, batch: int) -> Measured:
    """Return the model ``name`` with a command space."""
    preset = PRESETS[{"mini": "gpt2-mini"}.get(name, name)]
    if name == "smollm2":
        assert preset.hub is not None
        model, tokenizer = admit(find_weights(preset.hub, package=preset.package, instead=FROM_SCRATCH))
    else:
        tokenizer = large_tokenizer(texts, preset.vocab_size)
        model = scratch_gpt2(
            vocab_size=len(tokenizer), layers=preset.layers, width=preset.width, heads=preset.heads,
            context=preset.context, eos=tokenizer.eos_token_id, seed=0, copying=False,
        )  # fmt: skip
    rng = np.random.default_rng(0)
    values = {"t": {"relevance": rng.random(1000).tolist(), LENGTH: rng.integers(3, 60, 1000).tolist()}}
    attributes = (Attribute("relevance", 0, 1), Attribute(LENGTH, 1, 1000))
    space = CommandSpace.fit(len(model.get_input_embeddings().weight), attributes, values)
    control = space.render("t", space.positions("t", COMMAND.targets))
    never = 0 if name == "smollm2" else tokenizer.eos_token_id
    return Measured(StudentModel(model, space).eval(), tokenizer, control, new, batch, never)


def transformers_way(of: Measured, folder: Path) -> Way:
    """Return ``model.generate`` of the checkpoint that it writes into ``folder``."""
    save_model(of.network, folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def write(inputs: list[str]) -> list[str]:
        ids = torch.tensor(of.ids(inputs))
        seen = torch.ones_like(ids)
        out = plain.generate(ids, attention_mask=seen, min_new_tokens=of.new, max_new_tokens=of.new)
        return [of.text(row[ids.shape[1] :].tolist()) for row in out]

    return write


def udrl_way(of: Measured, engine: Any) -> Way:
    """Return a student on ``engine``."""
    sampling = Sampling(temperature=0, max_tokens=of.new, no_repeat=0)
    one = Student(engine, of.tokenizer, name="measured", sampling=sampling, ends=(of.never,))

    def write(inputs: list[str]) -> list[str]:
        made = one.generate(inputs, [COMMAND] * len(inputs))
        assert all(done.tokens == of.new for done in made), "a completion ended by itself"
        return [done.completion for done in made]

    return write


def onnx_way(of: Measured, folder: Path, precision: str) -> Way:
    """Return ONNX Runtime by an export that it writes into ``folder``."""
    write_graph(of.network, folder, quantised=precision == "int8")
    shape = exporter_of(of.network).cache_shape(of.network.model.config)
    facts = {
        "parameters": of.network.parameter_count, "context": of.network.context, "layers": shape.layers,
        "heads": shape.heads, "width": shape.heads * shape.size, "precision": precision,
    }  # fmt: skip
    return udrl_way(of, OnnxEngine(Export(f"onnx-{precision}", folder, facts), of.network.space))


def llama_cpp_way(of: Measured, file: Path) -> Way:
    """Return llama.cpp on ``file``: ours, or one that knows no control ids and gets text ids in their place."""
    program = LlamaCpp(file, context=PROMPT + of.new + 8, threads=torch.get_num_threads(), slots=of.batch)
    own = file.name == FILE

    def write(inputs: list[str]) -> list[str]:
        base = of.network.space.base
        prompts = (
            of.ids(inputs) if own else [[i if i < base else i % 1000 + 100 for i in row] for row in of.ids(inputs)]
        )
        return [text.removeprefix(" ") for text in program.complete(prompts, max_tokens=of.new, ignore_end=True)]

    return write


def ctranslate2_way(of: Measured, folder: Path, precision: str) -> Way:
    """Return CTranslate2 by an export that it writes into ``folder``."""
    write_ctranslate2(of.network, of.tokenizer, folder, quantised=precision == "int8")
    program = CTranslate2(folder, threads=torch.get_num_threads())

    def write(inputs: list[str]) -> list[str]:
        return [of.text(ids) for ids in program.complete(of.ids(inputs), max_tokens=of.new, ignore_end=True)]

    return write


def ways(of: Measured, folder: Path, chosen: list[str], *, original: Path | None) -> dict[str, Way]:
    """Return what is measured by name, of those whose names contain one of ``chosen`` (none: all)."""

    def gguf(place: Path, quantised: bool) -> Way:
        write_gguf(of.network, of.tokenizer, place, name="measured", quantised=quantised)
        return llama_cpp_way(of, place / FILE)

    makers: dict[str, Callable[[Path], Way]] = {
        "transformers fp32": lambda place: transformers_way(of, place),
        "udrl torch fp32": lambda place: udrl_way(of, TorchEngine(of.network)),
        "udrl onnx fp32": lambda place: onnx_way(of, place, "fp32"),
        "udrl onnx int8": lambda place: onnx_way(of, place, "int8"),
        "ctranslate2 fp32": lambda place: ctranslate2_way(of, place, "fp32"),
        "ctranslate2 int8": lambda place: ctranslate2_way(of, place, "int8"),
        "llama.cpp f32": lambda place: gguf(place, False),
        "llama.cpp q8_0": lambda place: gguf(place, True),
    }
    if original is not None:
        makers["llama.cpp q4_1"] = lambda place: llama_cpp_way(of, original)
    made = {}
    for index, (name, make) in enumerate(makers.items()):
        if index == 0 or not chosen or any(part in name for part in chosen):
            place = folder / name
            place.mkdir()
            made[name] = make(place)
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "mini", "smollm2"], default="gpt2")
    parser.add_argument("--ways", nargs="*", default=[], help="parts of names, such as onnx q8; default: all")
    parser.add_argument("--requests", type=int, default=9, help="turns with one input")
    parser.add_argument("--rounds", type=int, default=3, help="turns with a batch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    texts = [text for task in load_tasks(("text-to-image", "text-to-video")) for text in seeds(task)]
    of = to_measure(options.model, texts, options.new_tokens, options.batch)
    clock = time.process_time if options.processor_time else time.perf_counter
    original = packaged(SMOLLM2_PACKAGE) if options.model == "smollm2" else None
    with tempfile.TemporaryDirectory() as scratch:
        made = ways(of, Path(scratch), options.ways, original=original)
        print(
            f"{options.model}, {of.network.parameter_count / 1e6:.0f}M parameters, {PROMPT} ids in, {of.new} "
            f"out, {torch.get_num_threads()} threads"
        )
        inputs = prompts(of.tokenizer, texts, options.batch, PROMPT - len(of.control))
        for rows, turns in ((1, options.requests), (options.batch, options.rounds)):
            measure(made, inputs[:rows], turns, of.new, clock)


def measure(ways: dict[str, Way], inputs: list[str], turns: int, new: int, clock: Callable[[], float]) -> None:
    """Print one line a way: each writes for all ``inputs``, ``turns`` times, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    written = {name: way(inputs) for name, way in ways.items()}
    for _ in range(turns):
        for name, way in ways.items():
            started = clock()
            way(inputs)
            seconds[name].append(clock() - started)
    first, *_ = ways
    for name, of in seconds.items():
        ratios = [a / b for a, b in zip(seconds[first], of, strict=True)]
        middle = statistics.median(of)
        speed = f"{1000 * middle:,.0f} ms" if len(inputs) == 1 else f"{len(inputs) * new / middle:,.0f} tokens/s"
        same = sum(a == b for a, b in zip(written[name], written[first], strict=True))
        print(
            f"batch {len(inputs)}: {name:18} {speed:>16}, {statistics.median(ratios):.2f} times {first} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]; the same text for {same} of {len(inputs)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
