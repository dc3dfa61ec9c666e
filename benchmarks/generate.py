"""Answering speed on a CPU: `Student.generate` on every engine beside transformers' `model.generate`.

    python benchmarks/generate.py [--model gpt2|mini] [--requests 9] [--rounds 3] [--new-tokens 48] [--batch 32]

End to end: inputs and commands go in, text comes out; 40-id prompts (the command included), greedy, every completion as
long as --new-tokens. Random weights: no figure here depends on what they are. Engines take turns; each line gives the
median and, against transformers in float32 in the same turn, the median ratio with its range. Batch 1: milliseconds a
request. Batch 32: completion tokens a second. Engines whose float32 tokens differ from transformers' are named.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
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
from udrl.student.engines.exports import Export
from udrl.student.engines.onnx import OnnxEngine
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel, save_model
from udrl.student.student import Student
from udrl.tokenizer import END, decode, encode, train_tokenizer
from udrl.training.presets import PRESETS

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2", "mini"], default="gpt2")
    parser.add_argument("--requests", type=int, default=9, help="turns with one input")
    parser.add_argument("--rounds", type=int, default=3, help="turns with a batch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    preset = PRESETS["gpt2" if options.model == "gpt2" else "gpt2-mini"]
    texts = [text for task in load_tasks(("text-to-image", "text-to-video")) for text in seeds(task)]
    tokenizer = large_tokenizer(texts, preset.vocab_size)
    base = len(tokenizer)
    rng = np.random.default_rng(0)
    values = {"t": {"relevance": rng.random(1000).tolist(), LENGTH: rng.integers(3, 60, 1000).tolist()}}
    space = CommandSpace.fit(base, (Attribute("relevance", 0, 1), Attribute(LENGTH, 1, 1000)), values)
    model = scratch_gpt2(
        vocab_size=base, layers=preset.layers, width=preset.width, heads=preset.heads, context=preset.context,
        eos=tokenizer.eos_token_id, seed=0, copying=False,
    )  # fmt: skip
    network = StudentModel(model, space).eval()
    command = Command("t", {"relevance": 0.6, LENGTH: 30})
    control = space.render("t", space.positions("t", command.targets))
    sampling = Sampling(temperature=0, max_tokens=options.new_tokens)
    facts = {
        "parameters": network.parameter_count, "context": preset.context, "layers": preset.layers,
        "heads": preset.heads, "width": preset.width,
    }  # fmt: skip

    def student(engine: Any) -> Way:
        one = Student(engine, tokenizer, name="random", sampling=sampling)

        def write(inputs: list[str]) -> list[str]:
            made = one.generate(inputs, [command] * len(inputs))
            assert all(done.tokens == options.new_tokens for done in made), "a random student ended by itself"
            return [done.completion for done in made]

        return write

    def llama_cpp(file: Path, options: argparse.Namespace) -> Way:
        new, threads = options.new_tokens, torch.get_num_threads()
        loaded = LlamaCpp(file, context=PROMPT + new + 8, threads=threads, slots=options.batch)

        def write(inputs: list[str]) -> list[str]:
            ids = [space.prompt(text, control) for text in encode(tokenizer, inputs)]
            return [text.removeprefix(" ") for text in loaded.complete(ids, max_tokens=new, ignore_end=True)]

        return write

    def ctranslate2(place: Path, options: argparse.Namespace) -> Way:
        loaded = CTranslate2(place, threads=torch.get_num_threads())

        def write(inputs: list[str]) -> list[str]:
            ids = [space.prompt(text, control) for text in encode(tokenizer, inputs)]
            made = loaded.complete(ids, max_tokens=options.new_tokens, ignore_end=True)
            return [decode(tokenizer, list(one)).rstrip("\ufffd") for one in made]

        return write

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_model(network, folder / "checkpoint")
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder / "checkpoint").eval()

        @torch.inference_mode()
        def reference(inputs: list[str]) -> list[str]:
            ids = torch.tensor([space.prompt(text, control) for text in encode(tokenizer, inputs)])
            new = options.new_tokens
            out = plain.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=new, max_new_tokens=new)
            return [decode(tokenizer, row[ids.shape[1] :].tolist()).rstrip("\ufffd") for row in out]  # as ours

        ways: dict[str, Way] = {"transformers fp32": reference, "udrl torch fp32": student(TorchEngine(network))}
        for precision in ("fp32", "int8"):
            place = folder / precision
            place.mkdir()
            write_graph(network, place, quantised=precision == "int8")
            export = Export(f"onnx-{precision}", place, {**facts, "precision": precision})
            ways[f"udrl onnx {precision}"] = student(OnnxEngine(export, space))
        for quantised in (False, True):
            place = folder / ("llama.cpp q8" if quantised else "llama.cpp f32")
            place.mkdir()
            write_gguf(network, tokenizer, place, name="random", quantised=quantised)
            ways[place.name] = llama_cpp(place / FILE, options)
            place = folder / ("ctranslate2 int8" if quantised else "ctranslate2 fp32")
            place.mkdir()
            write_ctranslate2(network, tokenizer, place, quantised=quantised)
            ways[place.name] = ctranslate2(place, options)
        print(
            f"{options.model}, {network.parameter_count / 1e6:.0f}M parameters, {PROMPT} ids in, {options.new_tokens} "
            f"out, {torch.get_num_threads()} threads"
        )
        inputs = prompts(tokenizer, texts, options.batch, PROMPT - len(control))
        for rows, turns in ((1, options.requests), (options.batch, options.rounds)):
            measure(ways, inputs[:rows], turns, options.new_tokens)


def measure(ways: dict[str, Way], inputs: list[str], turns: int, new: int) -> None:
    """Print one line a way: each writes for all ``inputs``, ``turns`` times, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    written = {name: way(inputs) for name, way in ways.items()}
    for _ in range(turns):
        for name, way in ways.items():
            started = time.perf_counter()
            way(inputs)
            seconds[name].append(time.perf_counter() - started)
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
