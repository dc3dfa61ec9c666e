"""The head of a GGUF file: what is wrong with a file is said here, in one sentence, before its weights are read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The readers of transformers and of the package gguf
end with whatever numpy raises at the place where a file is cut or strange.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl.errors import WeightsError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
TEXT, LIST = 8, 9
WIDTHS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Kinds of values of a fixed width, as `struct` names them."""
MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class TensorHead:
    """A tensor of the file. shape: the fastest dimension first; kind: ggml's number of its type; start: its first byte,
    counted from where the tensors begin."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def elements(self) -> int:
        """How many weights it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Head:
    """What stands before the tensors. values: the facts by key; spans: the bytes of each fact, key included; table:
    those of the list of tensors; data: where the first tensor begins; size: of the file."""

    values: Mapping[str, Any]
    spans: Mapping[str, tuple[int, int]]
    tensors: Sequence[TensorHead]
    table: tuple[int, int]
    data: int
    size: int

    @property
    def architecture(self) -> str:
        """The name of the family of networks."""
        return str(self.values.get("general.architecture", ""))


class _Cursor:
    """Reads one value behind the other; raises WeightsError where the file ends before they do."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data, self.name, self.offset, self.part = data, name, 0, "header"

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        if self.offset + count > len(self.data):
            raise cut_short(self.name, f"in its {self.part}", len(self.data))
        taken = self.data[self.offset : self.offset + count]
        self.offset += count
        return taken

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Return the next numbers, of the form of `struct`."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def text(self) -> str:
        """Return the next text."""
        (length,) = self.numbers("Q")
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """Return the next value of that kind."""
        if kind in WIDTHS:
            return self.numbers(WIDTHS[kind])[0]
        if kind == TEXT:
            return self.text()
        if kind != LIST:
            raise damaged_head(self.name, f"a value of the unknown kind {kind}")
        each, count = self.numbers("IQ")
        if each in WIDTHS:
            width = struct.calcsize(WIDTHS[each])
            return list(struct.unpack(f"<{count}{WIDTHS[each]}", self.take(count * width)))
        if each != TEXT:
            raise damaged_head(self.name, f"a list of the unknown kind {each}")
        return [self.text() for _ in range(count)]


def cut_short(name: str, where: str, size: int) -> WeightsError:
    """Return the error for a file that ends too early."""
    return WeightsError(
        f"the GGUF file '{name}' is not whole: it ends {where}, after {size:,} bytes; download it again"
    )


def damaged_head(name: str, what: str) -> WeightsError:
    """Return the error for a head that makes no sense."""
    return WeightsError(f"the GGUF file '{name}' is damaged: its head holds {what}; download it again")


def read_head(file: Path, name: str) -> Head:
    """Return the head of ``file``, called ``name`` in messages.

    Raises WeightsError for what is no GGUF file, or one that is not whole.
    """
    size = file.stat().st_size
    if size < len(MAGIC):
        raise cut_short(name, "in its header", size)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(data, name)
        if (magic := cursor.take(len(MAGIC))) != MAGIC:
            raise WeightsError(f"'{name}' is no GGUF file: it begins with {magic!r}, not {MAGIC!r}; download it again")
        version, tensors, facts = cursor.numbers("IQQ")
        if version not in VERSIONS:
            raise WeightsError(
                f"the GGUF file '{name}' is of version {version}, and versions 2 and 3 in little-endian order can be "
                "read: convert it with llama.cpp, or take another file"
            )
        cursor.part = "metadata"
        values, spans = {}, {}
        for _ in range(facts):
            start = cursor.offset
            key = cursor.text()
            values[key] = cursor.value(cursor.numbers("I")[0])
            spans[key] = (start, cursor.offset)
        table = cursor.offset
        cursor.part = "list of tensors"
        listed = [_tensor_head(cursor) for _ in range(tensors)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise damaged_head(name, f"the alignment {alignment!r}")
        return Head(values, spans, listed, (table, cursor.offset), -(-cursor.offset // alignment) * alignment, size)


def _tensor_head(cursor: _Cursor) -> TensorHead:
    name, (dimensions,) = cursor.text(), cursor.numbers("I")
    if dimensions > MOST_DIMENSIONS:
        raise damaged_head(cursor.name, f"a tensor of {dimensions} dimensions")
    shape = cursor.numbers(f"{dimensions}Q")
    kind, start = cursor.numbers("IQ")
    return TensorHead(name, shape, kind, start)


def check_head(head: Head, name: str) -> None:
    """Raise WeightsError unless ``head`` is of a whole language model with a tokenizer, in types that can be read."""
    if not head.architecture:
        raise WeightsError(f"the GGUF file '{name}' names no architecture: take the file of a language model")
    parts = head.values.get("split.count", 1)
    if not isinstance(parts, int):
        raise damaged_head(name, f"the number of parts {parts!r}")
    if parts > 1:
        raise WeightsError(
            f"the GGUF file '{name}' is one of {parts} parts of a model: join them with llama-gguf-split --merge"
        )
    _check_tensors(head, name)
    tokens = head.values.get("tokenizer.ggml.tokens")
    if not tokens or not isinstance(tokens, list):
        raise WeightsError(f"the GGUF file '{name}' holds no tokenizer: take one with weights and tokenizer")
    tables = [tensor for tensor in head.tensors if tensor.name == "token_embd.weight" and tensor.shape]
    rows = tables[0].shape[-1] if tables else None
    if rows is None:
        raise WeightsError(f"the GGUF file '{name}' holds no embedding (token_embd.weight): take a language model's")
    if len(tokens) > rows:
        raise WeightsError(
            f"the tokenizer in the GGUF file '{name}' has {len(tokens):,} tokens and its embedding {rows:,} rows: the "
            "two belong to different models, take another file"
        )
    end = head.values.get("tokenizer.ggml.eos_token_id")
    if not isinstance(end, int) or not 0 <= end < len(tokens):
        raise WeightsError(
            f"the tokenizer in the GGUF file '{name}' names no end token (tokenizer.ggml.eos_token_id), so nothing "
            "would ever end: take another file, or set it with gguf_set_metadata"
        )
    scaling = head.values.get(f"{head.architecture}.rope.scaling.type", "none")
    if scaling != "none" or any(tensor.name.startswith("rope_f") for tensor in head.tensors):
        raise WeightsError(
            f"the GGUF file '{name}' scales its positions (rope scaling), which transformers leaves out when it reads "
            "GGUF: take the model's safetensors"
        )


def _check_tensors(head: Head, name: str) -> None:
    """Raise WeightsError where a tensor is of a type that cannot be read, or lies beyond the end of the file."""
    import gguf
    import numpy as np

    whole = head.data
    for kind in sorted({tensor.kind for tensor in head.tensors}):
        try:
            known = gguf.GGMLQuantizationType(kind)
            gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[known][1]), dtype=np.uint8), known)  # a block
        except (ValueError, KeyError, NotImplementedError):
            of = next(tensor.name for tensor in head.tensors if tensor.kind == kind)
            shown = next((one.name for one in gguf.GGMLQuantizationType if one.value == kind), f"number {kind}")
            raise WeightsError(
                f"the GGUF file '{name}' holds weights of the type {shown} ({of}), which cannot be dequantised here: "
                "take a file in Q8_0, Q4_K_M, F16 or the like"
            ) from None
    for tensor in head.tensors:
        each, length = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.kind)]
        whole = max(whole, head.data + tensor.start + tensor.elements // each * length)
    if whole > head.size:
        raise WeightsError(
            f"the GGUF file '{name}' is not whole: it has {head.size:,} of {whole:,} bytes; download it again"
        )


def excerpt(file: Path, head: Head, target: Path, *, leave_out: Sequence[str] = (), tensors: bool) -> None:
    """Write a GGUF file with the facts of ``file`` but for some, and with its tensors or without.

    transformers reads all facts three times, which for long lists of tokens takes most of its time.
    """
    kept = [span for key, span in head.spans.items() if key not in leave_out]
    with file.open("rb") as source, target.open("wb") as out:
        out.write(MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(head.tensors) if tensors else 0, len(kept)))
        for start, end in (*kept, *([head.table] if tensors else [])):
            source.seek(start)
            out.write(source.read(end - start))
        if tensors:
            alignment = int(head.values.get("general.alignment", 32))
            out.write(bytes(-out.tell() % alignment))
            source.seek(head.data)
            while block := source.read(1 << 24):
                out.write(block)
