"""llama.cpp, to verify a GGUF file and to measure against: it writes completions by itself, so it is no `Engine`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from udrl.errors import StudentError
from udrl.student.prompts import by_limit, fit_prompts

if TYPE_CHECKING:
    from udrl.student.student import Student

SLOTS = 8
"""Completions under way at once."""


class LlamaCpp:
    """A GGUF file in llama.cpp on the CPU. Needs the package xllamacpp."""

    def __init__(self, file: Path, *, context: int, threads: int, slots: int = SLOTS, exact: bool = False) -> None:
        """Load ``file``.

        context: ids of a prompt and its completion; slots: completions under way at once; exact: keep keys and values
        in float32, where llama.cpp keeps them in half precision by itself.
        """
        import xllamacpp

        options = xllamacpp.CommonParams()
        options.model.path = str(file)
        options.n_ctx, options.n_parallel = context * slots, slots
        options.n_gpu_layers, options.warmup, options.verbosity = 0, False, -1
        if exact:
            options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        try:
            self.server = xllamacpp.Server(options)
        except RuntimeError as error:
            raise StudentError(f"{file} cannot be loaded ({error}): export again with udrl export") from error

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        ignore_end: bool = False,
    ) -> list[str]:
        """Return the completion of each prompt (ids), as it was written: with the space that it begins with."""
        request: dict[str, Any] = {
            "prompt": [list(prompt) for prompt in prompts],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "samplers": ["temperature", "top_p"],  # in our order, and no others
            "seed": seed,
            "cache_prompt": False,
            "ignore_eos": ignore_end,
        }
        written = self.server.handle_completions(request)
        answer = json.loads(written) if isinstance(written, str | bytes) else written
        if "choices" not in answer:
            raise StudentError(f"llama.cpp does not complete: {answer.get('error', answer)}")
        return [one["text"] for one in sorted(answer["choices"], key=lambda one: int(one["index"]))]


class LlamaCppAnswerer:
    """A student's GGUF file as a `udrl.export.verification.Answerer`; greedily, texts are compared."""

    def __init__(self, student: Student, file: Path) -> None:
        """Answer by ``file`` with the sampling of ``student``, without its rule of repetition and its guidance."""
        self.student, self.file = student, file

    def greedy(self, texts: Sequence[str], controls: Sequence[Sequence[int]]) -> list[str]:
        """Return completions."""
        return self._written(texts, controls, temperature=0.0)

    def sampled(self, texts: Sequence[str], controls: Sequence[Sequence[int]]) -> list[str]:
        """Return completions."""
        return self._written(texts, controls, temperature=self.student.sampling.temperature)

    def _written(self, texts: Sequence[str], controls: Sequence[Sequence[int]], *, temperature: float) -> list[str]:
        student, sampling = self.student, self.student.sampling
        prompts = fit_prompts(student.tokenizer, student.computes, texts, controls, sampling.max_tokens)
        # llama.cpp fills the memory of every slot's whole context, which a student may have a hundred times too much of
        longest = max(len(prompt.ids) + prompt.limit for prompt in prompts)
        program = LlamaCpp(self.file, context=longest, threads=torch.get_num_threads())

        def write(some: list[list[int]], limit: int) -> list[str]:
            return program.complete(some, max_tokens=limit, temperature=temperature, top_p=sampling.top_p)

        made = by_limit(write, prompts)
        return [text.removeprefix(" ").rstrip("\ufffd") for text in made]  # a character that was cut, as in ours
