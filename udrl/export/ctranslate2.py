"""A student for CTranslate2: the folder that its programs load, and the program itself, to verify it.

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

from udrl.architecture.closed_head import NEVER
from udrl.errors import StudentError
from udrl.export.parts import embeddings, exporter_of, rows_of, token_names
from udrl.student.network import StudentModel
from udrl.student.prompts import by_limit, fit_prompts
from udrl.tokenizer import decode

if TYPE_CHECKING:
    from udrl.decoding.sampling import Sampling
    from udrl.student.student import Student


@torch.no_grad()
def write_ctranslate2(student: StudentModel, tokenizer: Any, folder: Path, *, quantised: bool) -> None:
    """Write ``model.bin`` and its vocabulary.

    quantised: matrices and embeddings in 8 bits, one scale a row; else float32. Needs the package ctranslate2.
    """
    base, size = student.space.base, rows_of(student)
    made = exporter_of(student).ctranslate2_spec(student.model)
    table = student.model.get_output_embeddings().weight[:base]
    head, shift = torch.zeros(size, table.shape[1]), torch.full((size,), NEVER)
    head[:base], shift[:base] = table, 0.0
    made.decoder.embeddings.weight = embeddings(student).numpy()
    made.decoder.projection.weight, made.decoder.projection.bias = head.numpy(), shift.numpy()
    made.register_vocabulary(token_names(tokenizer, base, size))
    made.config.bos_token = made.config.eos_token = made.config.unk_token = tokenizer.eos_token
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
        ends: Sequence[int] = (),
        ignore_end: bool = False,
    ) -> list[tuple[int, ...]]:
        """Return what is written after each prompt (ids), as ids without the end.

        ends: ids that end a completion; none: the folder's own, which is one.
        """
        options: dict[str, Any] = {"sampling_topk": 1}
        if temperature > 0:
            options = {"sampling_topk": 0, "sampling_topp": top_p, "sampling_temperature": temperature}
        if ignore_end:
            options |= {"min_length": max_tokens}
        try:
            written = self.generator.generate_batch(
                [[self.tokens[i] for i in prompt] for prompt in prompts],
                max_length=max_tokens,
                include_prompt_in_result=False,
                end_token=list(ends) or None,
                **options,
            )
        except RuntimeError as error:
            raise StudentError(f"CTranslate2 does not complete: {error}") from error
        return [tuple(one.sequences_ids[0]) for one in written]


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
        prompts = fit_prompts(student.tokenizer, student.computes, texts, controls, sampling.max_tokens)

        def write(some: list[list[int]], limit: int) -> list[tuple[int, ...]]:
            return self.program.complete(
                some, max_tokens=limit, temperature=sampling.temperature, top_p=sampling.top_p, ends=student.ends
            )

        return by_limit(write, prompts)
