"""A student in vLLM's offline engine, asked as docs/generating.md says, beside udrl's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from udrl.commands import Command
from udrl.student.student import Student
from udrl.tokenizer import decode

MOST = 24


def engine_of(folder: Path, room: int = 128) -> Any:
    """Return vLLM with the checkpoint in ``folder``, in float32; it reads ``room`` tokens."""
    import vllm

    return vllm.LLM(
        model=str(folder),
        dtype="float32",
        max_model_len=room,
        enforce_eager=True,
        kv_cache_memory_bytes=64 << 20,
        max_num_seqs=8,
        generation_config="vllm",
    )


def ask(
    engine: Any, student: Student, texts: Sequence[str], commands: Sequence[Command], **sampling: Any
) -> list[list[int]]:
    """Return the ids that vLLM writes, the end among them, greedily unless ``sampling`` says otherwise."""
    import vllm

    prompts = [{"prompt_token_ids": ids} for ids in student.prompt_ids(texts, commands)]
    asked: dict[str, Any] = {
        "temperature": 0.0,
        "max_tokens": MOST,
        "detokenize": False,
        "stop_token_ids": list(student.ends),
        "allowed_token_ids": list(range(student.space.base)),
    }
    replies = engine.generate(prompts, vllm.SamplingParams(**{**asked, **sampling}), use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in replies]


def written_alike(
    engine: Any, student: Student, texts: Sequence[str], commands: Sequence[Command]
) -> list[tuple[str, int]]:
    """Check that vLLM and udrl write the same greedily; return each completion and the last id of it."""
    sampling = replace(student.sampling, temperature=0, max_tokens=MOST, no_repeat=0)
    own = student.generate(texts, commands, sampling=sampling)
    written = ask(engine, student, texts, commands)
    for ids, one in zip(written, own, strict=True):
        ended = ids[-1] in student.ends
        text = decode(student.tokenizer, ids[:-1] if ended else ids)
        assert (text if ended else text.rstrip("\ufffd")) == one.completion
        assert (len(ids), "stop" if ended else "length") == (one.tokens, one.finish_reason)
    return [(one.completion, ids[-1]) for ids, one in zip(written, own, strict=True)]
