"""A GPT-2 student for CTranslate2: the folder that its programs load, and the program itself, to verify it.

CTranslate2 writes whole completions and does not show what it computes on the way, so it is no `Engine`. Commands are
given as tokens: a prompt's ids in the folder's vocabulary. Its head has a bias, which keeps control ids from being
written. Format: https://opennmt.net/CTranslate2/conversion.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from udrl.errors import StudentError
from udrl.export.closed_rows import NEVER, embeddings, rows_of, token_names
from udrl.student.network import StudentModel
from udrl.student.prompts import by_limit, fitted_prompts
from udrl.tokenizer import decode

if TYPE_CHECKING:
    from udrl.decoding.loop import Sampling
    from udrl.student.student import Student


@torch.no_grad()
def write_ctranslate2(student: StudentModel, tokenizer: Any, folder: Path, *, quantised: bool) -> None:
    """Write ``model.bin`` and its vocabulary of a GPT-2 student, whose ``packed`` must be true.

    quantised: matrices and embeddings in 8 bits, one scale a row; else float32. Needs the package ctranslate2.
    """
    from ctranslate2.specs import Activation, TransformerDecoderModelSpec

    config, transformer, size = student.model.config, student.model.transformer, rows_of(student)
    made = TransformerDecoderModelSpec.from_config(
        config.n_layer, config.n_head, pre_norm=True, activation=Activation.GELUTanh
    )

    def numbers(values: torch.Tensor) -> Any:
        return values.detach().float().cpu().contiguous().numpy()

    def linear(spec: Any, layer: Any) -> None:
        spec.weight, spec.bias = numbers(layer.weight.T), numbers(layer.bias)  # GPT-2 keeps it as (in, out)

    def norm(spec: Any, layer: Any) -> None:
        spec.gamma, spec.beta = numbers(layer.weight), numbers(layer.bias)

    decoder = made.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = numbers(embeddings(student))
    decoder.position_encodings.encodings = numbers(transformer.wpe.weight)
    for spec, block in zip(decoder.layer, transformer.h, strict=True):
        norm(spec.self_attention.layer_norm, block.ln_1)
        linear(spec.self_attention.linear[0], block.attn.c_attn)
        linear(spec.self_attention.linear[1], block.attn.c_proj)
        norm(spec.ffn.layer_norm, block.ln_2)
        linear(spec.ffn.linear_0, block.mlp.c_fc)
        linear(spec.ffn.linear_1, block.mlp.c_proj)
    norm(decoder.layer_norm, transformer.ln_f)
    base, head, shift = student.space.base, torch.zeros(size, config.n_embd), torch.full((size,), NEVER)
    head[:base], shift[:base] = student.model.lm_head.weight[:base], 0.0
    decoder.projection.weight, decoder.projection.bias = numbers(head), numbers(shift)
    made.register_vocabulary(token_names(tokenizer, base, size))
    made.config.bos_token = made.config.eos_token = made.config.unk_token = tokenizer.eos_token
    made.config.layer_norm_epsilon = config.layer_norm_epsilon
    made.validate()
    made.optimize(quantization="int8" if quantised else None)
    made.save(str(folder))


class CTranslate2:
    """An export in CTranslate2 on the CPU. Needs the package ctranslate2."""

    def __init__(self, folder: Path, *, threads: int, compute: str = "default") -> None:
        """Load ``folder``; raises StudentError where it is damaged.

        compute: numbers that matrices are multiplied in, "default" those of the folder.
        """
        import ctranslate2

        try:
            self.generator = ctranslate2.Generator(
                str(folder), device="cpu", compute_type=compute, intra_threads=threads
            )
            self.tokens: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        except (RuntimeError, OSError, ValueError) as error:
            raise StudentError(f"{folder} cannot be loaded ({error}): export again with udrl export") from error

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        ignore_end: bool = False,
    ) -> list[tuple[int, ...]]:
        """Return what is written after each prompt (ids), as ids without the end."""
        options: dict[str, Any] = {"sampling_topk": 1}
        if temperature > 0:
            options = {"sampling_topk": 0, "sampling_topp": top_p, "sampling_temperature": temperature}
        if ignore_end:
            options |= {"min_length": max_tokens}
        try:
            found = self.generator.generate_batch(
                [[self.tokens[i] for i in prompt] for prompt in prompts],
                max_length=max_tokens,
                include_prompt_in_result=False,
                **options,
            )
        except RuntimeError as error:
            raise StudentError(f"CTranslate2 does not complete: {error}") from error
        return [tuple(one.sequences_ids[0]) for one in found]


class CTranslate2Answerer:
    """A student's export as a `udrl.export.verification.Answerer`."""

    def __init__(self, student: Student, folder: Path) -> None:
        """Load ``folder``; ``student`` says how it is sampled."""
        self.student = student
        self.program = CTranslate2(folder, threads=torch.get_num_threads())

    def greedy(self, texts: Sequence[str], controls: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """Return ids."""
        return self._written(texts, controls, replace(self.student.sampling, temperature=0.0))

    def sampled(self, texts: Sequence[str], controls: Sequence[Sequence[int]]) -> list[str]:
        """Return completions."""
        written = self._written(texts, controls, self.student.sampling)
        return [decode(self.student.tokenizer, list(ids)).rstrip("\ufffd") for ids in written]

    def _written(
        self, texts: Sequence[str], controls: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[tuple[int, ...]]:
        student = self.student
        prompts, limits = fitted_prompts(student.tokenizer, student.computes, texts, controls, sampling.max_tokens)

        def write(some: list[list[int]], limit: int) -> list[tuple[int, ...]]:
            return self.program.complete(some, max_tokens=limit, temperature=sampling.temperature, top_p=sampling.top_p)

        return by_limit(write, prompts, limits)
