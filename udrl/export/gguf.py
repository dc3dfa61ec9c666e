"""A student as one GGUF file, for llama.cpp, Ollama, LM Studio and all that is built on them.

Control rows stand behind the text rows, as in the checkpoint, and are never written, whatever program samples
(`udrl.architecture.closed_head`). A control row's token has a text that no merge makes, and the type "unused", which no
text is parsed to: commands are given as ids. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from udrl.errors import StudentError
from udrl.export.parts import embeddings, exporter_of, rows_of, token_names
from udrl.student.network import StudentModel

FILE = "student.gguf"
BLOCK = 32
"""Weights that share a scale in Q8_0."""
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = ("ByteLevel", False)
SPLITS: dict[tuple[Any, ...], str] = {
    (("ByteLevel", True),): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + _LETTERS + r"\p{N}" + _REST), _BYTES): "qwen2",
    (("Split", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + _LETTERS + r"\p{N}{1,3}" + _REST), _BYTES): "llama-bpe",
}
"""What llama.cpp calls the ways to split a text before its merges. Each is what tokenizers' parts do, in their order:
bytes, by GPT-2's expression or as they come; digits each by itself; an expression."""


def split_name(tokenizer: Any) -> str | None:
    """Return the name in `SPLITS` of what ``tokenizer`` does before its merges of bytes; None: something else.

    Qwen brings texts into composed characters before. llama.cpp, whose own converter takes Qwen, does not.
    """
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    splits = made["pre_tokenizer"] or {}
    done: list[tuple[str, Any]] = []
    for part in splits.get("pretokenizers", [splits]):
        kind = part.get("type")
        details = {
            "ByteLevel": part.get("use_regex", True),
            "Digits": part.get("individual_digits"),
            "Split": (part.get("pattern") or {}).get("Regex"),
        }
        done.append((kind, details.get(kind)))
    name = SPLITS.get(tuple(done)) if made["model"]["type"] == "BPE" else None
    composed = made["normalizer"] == {"type": "NFC"} and name == "qwen2"
    return name if composed or not made["normalizer"] else None


@torch.no_grad()
def check_gguf(student: StudentModel, tokenizer: Any, *, quantised: bool) -> None:
    """Raise StudentError where ``student`` cannot be written as GGUF: its tokenizer or its widths are others.

    llama.cpp's vocabulary "gpt2" is a byte-level BPE whose texts are split in one of the ways that it knows.
    """
    if split_name(tokenizer) is None:
        raise StudentError(
            "this student's tokenizer is not a byte-level BPE as GPT-2's, SmolLM2's, Qwen's or Llama 3's: GGUF cannot "
            "hold it; take --format onnx or ctranslate2"
        )
    tensors = exporter_of(student).gguf_tensors(student.model, embeddings(student), student.space.base)
    widths = {tensor.values.shape[-1] for tensor in tensors if tensor.matrix}
    if quantised and (odd := sorted(width for width in widths if width % BLOCK)):
        raise StudentError(
            f"GGUF keeps int8 in blocks of {BLOCK}, and this student has a width of {odd[0]}: take --precision fp32"
        )


@torch.no_grad()
def write_gguf(student: StudentModel, tokenizer: Any, folder: Path, *, name: str, quantised: bool) -> None:
    """Write ``student.gguf``.

    quantised: matrices as Q8_0 (8 bits, one scale for 32 weights), else float32; all else is float32. Needs the package
    gguf, and a student that `check_gguf` lets pass.
    """
    import gguf

    kind, exporter = gguf.GGMLQuantizationType, exporter_of(student)
    writer = gguf.GGUFWriter(folder / FILE, exporter.gguf_name)
    writer.add_name(name)
    exporter.add_gguf_facts(writer, student.model)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.ALL_F32)
    _add_vocabulary(writer, tokenizer, student.space.base, rows_of(student), student.ends)
    for tensor in exporter.gguf_tensors(student.model, embeddings(student), student.space.base):
        array: npt.NDArray[np.float32] = tensor.values.detach().float().cpu().numpy()
        stored = kind.Q8_0 if quantised and tensor.matrix else kind.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(np.ascontiguousarray(array), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, tokenizer: Any, base: int, size: int, ends: Sequence[int]) -> None:
    import gguf

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    known = set(tokenizer.get_vocab().values())
    special = {*tokenizer.all_special_ids, *(i for i, one in tokenizer.added_tokens_decoder.items() if one.special)}
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(tokenizer))
    writer.add_token_list(token_names(tokenizer, base, size))
    writer.add_token_types(
        [kinds.UNUSED if i >= base or i not in known else kinds.CONTROL if i in special else kinds.NORMAL
         for i in range(size)]
    )  # fmt: skip
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(ends[0])
    for add, end in zip((writer.add_eot_token_id, writer.add_eom_token_id), ends[1:], strict=False):
        add(end)  # the programs end at each of the three
    writer.add_add_bos_token(False)
