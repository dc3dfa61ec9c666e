"""A GPT-2 student as one GGUF file, for llama.cpp, Ollama, LM Studio and all that is built on them.

Control rows stand behind the text rows, as in the checkpoint, and are never written, whatever program samples
(`udrl.export.closed_rows`). A control row's token has a text that no merge makes, and the type "unused", which no
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
from udrl.export.closed_rows import embeddings, head, rows_of, token_names
from udrl.student.network import StudentModel

FILE = "student.gguf"
BLOCK = 32
"""Weights that share a scale in Q8_0."""


def check_gguf(student: StudentModel, tokenizer: Any, *, quantised: bool) -> None:
    """Raise StudentError where a GPT-2 student cannot be written as GGUF: its tokenizer or its widths are others.

    llama.cpp's "gpt2" vocabulary is a byte-level BPE whose texts are split by GPT-2's expression and nothing else.
    """
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    splits = made["pre_tokenizer"] or {}
    parts = splits.get("pretokenizers", [splits])
    byte_level = [part.get("type") for part in parts] == ["ByteLevel"] and parts[0].get("use_regex", True)
    if made["model"]["type"] != "BPE" or not byte_level or made["normalizer"]:
        raise StudentError(
            "this student's tokenizer is not a byte-level BPE as GPT-2's: GGUF cannot hold it; take --format onnx or "
            "ctranslate2"
        )
    widths = {student.model.config.n_embd, student.model.transformer.h[0].mlp.c_fc.weight.shape[1]}
    if quantised and (odd := sorted(width for width in widths if width % BLOCK)):
        raise StudentError(
            f"GGUF keeps int8 in blocks of {BLOCK}, and this student has a width of {odd[0]}: take --precision fp32"
        )


@torch.no_grad()
def write_gguf(student: StudentModel, tokenizer: Any, folder: Path, *, name: str, quantised: bool) -> None:
    """Write ``student.gguf`` of a GPT-2 student, whose ``packed`` must be true.

    quantised: matrices as Q8_0 (8 bits, one scale for 32 weights), else float32; all else is float32. Needs the package
    gguf, and a student that `check_gguf` lets pass.
    """
    import gguf

    kind = gguf.GGMLQuantizationType
    matrices = kind.Q8_0 if quantised else kind.F32
    writer = gguf.GGUFWriter(folder / FILE, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
    config, transformer, base = student.model.config, student.model.transformer, student.space.base
    writer.add_name(name)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(transformer.h[0].mlp.c_fc.weight.shape[1])
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.ALL_F32)
    size = rows_of(student)
    _add_vocabulary(writer, tokenizer, base, size, student.ends)

    def add(name: str, values: torch.Tensor, as_kind: Any = kind.F32) -> None:
        array: npt.NDArray[np.float32] = values.detach().float().cpu().numpy()
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(array), as_kind), raw_dtype=as_kind)

    def linear(name: str, layer: Any) -> None:
        add(f"{name}.weight", layer.weight.T, matrices)  # transformers' GPT-2 keeps it as (in, out)
        add(f"{name}.bias", layer.bias)

    def norm(name: str, layer: Any) -> None:
        add(f"{name}.weight", layer.weight)
        add(f"{name}.bias", layer.bias)

    add("token_embd.weight", embeddings(student), matrices)
    add("position_embd.weight", transformer.wpe.weight)
    for index, block in enumerate(transformer.h):
        at = f"blk.{index}"
        norm(f"{at}.attn_norm", block.ln_1)
        linear(f"{at}.attn_qkv", block.attn.c_attn)
        linear(f"{at}.attn_output", block.attn.c_proj)
        norm(f"{at}.ffn_norm", block.ln_2)
        linear(f"{at}.ffn_up", block.mlp.c_fc)
        linear(f"{at}.ffn_down", block.mlp.c_proj)
    add("output_norm.weight", torch.ones(config.n_embd))
    add("output_norm.bias", torch.ones(config.n_embd))
    add("output.weight", head(student.model.lm_head.weight[:base], transformer.ln_f, size), matrices)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, tokenizer: Any, base: int, size: int, ends: Sequence[int]) -> None:
    import gguf

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    known = set(tokenizer.get_vocab().values())
    special = set(tokenizer.all_special_ids)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
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
