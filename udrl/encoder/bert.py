"""The forward pass of small BERT encoders, over the weights of a sentence-transformers folder.

Every batch of a length has the same shape, filled up with blank rows, so that the vector of a text does not depend on
the texts that it is encoded with: matrix products of other shapes round differently. A score can therefore be
computed again, in any order, to the same bit (same machine, precision and number of threads).

Reading the folder directly also saves the import of sentence-transformers, 11 of 14 CPU seconds before the first
vector. It is no shortcut for the products themselves: in CPU time, in float32 without bf16 hardware, it was measured
at sentence-transformers' own speed on texts of one length, and at 1.2 times that on mixed ones. `udrl.encoder.onnx`
is faster there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

MINILM = "all-MiniLM-L6-v2"
"""The default encoder: 22.7M parameters, 384 dimensions, reads 256 word pieces."""

STEP = 4
"""Lengths are rounded up to a multiple of this many tokens: 4 wastes about 6 % on short texts, 8 about 10."""

TOKENS_PER_BATCH = {"cpu": 256, "cuda": 16384}
"""512 is 4 % faster on full batches, 128 is 20 % slower; a length's last batch costs as much as a full one."""

Rows = npt.NDArray[np.float32]
Forward = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Rows]
"""Token ids (height, width) and how many of each row are real (height,) -> unit rows (height, dimensions)."""


def is_supported(folder: Path) -> bool:
    """Say whether the sentence-transformers model in ``folder`` is a BERT with mean pooling, as many are."""
    needed = ("config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
    if not all(
        (folder / name).is_file() for name in (*needed, "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ):
        return False
    config, parts, pooling, settings = (json.loads((folder / name).read_text()) for name in needed)
    modules = [part["type"].rsplit(".", 1)[-1] for part in parts]
    modes = {mode for mode, on in pooling.items() if mode.startswith("pooling_mode") and on}
    sentences = folder / "config_sentence_transformers.json"
    prompt = json.loads(sentences.read_text()).get("default_prompt_name") if sentences.is_file() else None
    return (
        config.get("model_type") == "bert"
        and prompt is None
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and modules[:2] == ["Transformer", "Pooling"]
        and set(modules[2:]) <= {"Normalize"}
        and modes in ({"pooling_mode_mean_tokens"}, {"pooling_mode"})
        and pooling.get("pooling_mode", "mean") == "mean"
        and not settings.get("do_lower_case")
    )


def max_tokens(folder: Path) -> int:
    """Return how many tokens the model reads; sentence-transformers 6 keeps it with the tokenizer."""
    limit = json.loads((folder / "sentence_bert_config.json").read_text()).get("max_seq_length")
    if limit is None:
        limit = json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"]
    return min(int(limit), int(json.loads((folder / "config.json").read_text())["max_position_embeddings"]))


class Reader:
    """The tokenizer of a model, and the order in which texts go through its forward pass."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()  # the saved file pads every text to 128
        self._tokenizer.enable_truncation(max_tokens(folder))

    def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        """Return for each of ``texts`` the share in [0, 1] of the characters read that became unknown pieces."""
        unknown = self._tokenizer.token_to_id("[UNK]")
        return [_unknown_share(encoding.ids, encoding.offsets, unknown) for encoding in self._encoded(texts)]

    def _encoded(self, texts: Sequence[str]) -> list[Any]:
        encodings: list[Any] = self._tokenizer.encode_batch(list(texts))
        return encodings

    def encode(
        self, texts: Sequence[str], forward: Forward, *, dimensions: int, step: int, tokens: int
    ) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Return a unit row for each of ``texts``, and whether it had more word pieces than the model reads.

        step: lengths are rounded up to a multiple of it. tokens: a batch of width w has tokens // w rows, always, so
        that a text's row depends on nothing but the text.
        """
        encodings = self._encoded(texts)
        truncated = np.array([bool(encoding.overflowing) for encoding in encodings], dtype=bool)
        by_width: dict[int, list[int]] = {}
        for index, encoding in enumerate(encodings):
            by_width.setdefault(-(-len(encoding.ids) // step) * step, []).append(index)
        rows = np.empty((len(encodings), dimensions), dtype=np.float32)
        for width, indices in sorted(by_width.items()):
            height = max(1, tokens // width)
            for start in range(0, len(indices), height):
                batch = indices[start : start + height]
                ids = np.zeros((height, width), dtype=np.int64)
                lengths = np.ones(height, dtype=np.int64)
                for row, index in enumerate(batch):
                    word_pieces = encodings[index].ids
                    ids[row, : len(word_pieces)] = word_pieces
                    lengths[row] = len(word_pieces)
                rows[batch] = forward(ids, lengths)[: len(batch)]
        return rows, truncated


def _unknown_share(ids: Sequence[int], offsets: Sequence[tuple[int, int]], unknown: int | None) -> float:
    """Return the share of the characters under the pieces that are under unknown ones; 0 where there are none."""
    if unknown not in ids:
        return 0.0
    lengths = [end - start for start, end in offsets]
    return sum(length for piece, length in zip(ids, lengths, strict=True) if piece == unknown) / max(1, sum(lengths))


def read_weights(folder: Path) -> dict[str, Rows]:
    """Return the weights of the model in ``folder`` in float32, by their names within BERT."""
    from safetensors import deserialize

    kinds: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
    weights = {}
    for name, tensor in deserialize((folder / "model.safetensors").read_bytes()):  # type: ignore[no-untyped-call]
        if tensor["dtype"] == "BF16":  # numpy has no such number: it is the upper half of a float32
            values = (np.frombuffer(tensor["data"], np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif tensor["dtype"] in kinds:
            values = np.frombuffer(tensor["data"], kinds[tensor["dtype"]]).astype(np.float32)
        else:
            continue  # places and the like, which no product needs
        weights[name.removeprefix("bert.")] = values.reshape(tensor["shape"])
    return weights


class Bert:
    """The weights and tokenizer of one model, on one device.

    ``texts -> (rows, truncated)``: ``rows`` are float32 (n, dimensions) of length 1, ``truncated`` says for
    each text whether it had more word pieces than the model reads.
    """

    def __init__(self, folder: Path, *, precision: str, device: str) -> None:
        import torch

        config = json.loads((folder / "config.json").read_text())
        self.dimensions = int(config["hidden_size"])
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        self._device = device
        self._tokens_per_batch = TOKENS_PER_BATCH.get(device.split(":")[0], TOKENS_PER_BATCH["cuda"])
        self._reader = Reader(folder)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        saved = {name: torch.from_numpy(values) for name, values in read_weights(folder).items()}

        def put(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, dtype=dtype)

        def take(*names: str) -> tuple[torch.Tensor, torch.Tensor]:
            """Return the weights and the biases of the named layers, one below the other."""
            weight = torch.cat([saved[f"{name}.weight"] for name in names])
            bias = torch.cat([saved[f"{name}.bias"] for name in names])
            return put(weight), put(bias)

        kinds = saved["embeddings.token_type_embeddings.weight"]
        self._words = put(saved["embeddings.word_embeddings.weight"])
        self._positions = put(saved["embeddings.position_embeddings.weight"] + kinds[0])
        self._norm = take("embeddings.LayerNorm")
        self._layers = []
        for index in range(int(config["num_hidden_layers"])):
            layer = f"encoder.layer.{index}"
            self._layers.append(
                {
                    "qkv": take(*(f"{layer}.attention.self.{part}" for part in ("query", "key", "value"))),
                    "mix": take(f"{layer}.attention.output.dense"),
                    "mixed": take(f"{layer}.attention.output.LayerNorm"),
                    "up": take(f"{layer}.intermediate.dense"),
                    "down": take(f"{layer}.output.dense"),
                    "norm": take(f"{layer}.output.LayerNorm"),
                }
            )

    def __call__(self, texts: Sequence[str]) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Encode ``texts``; see the class."""
        import torch

        def forward(ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Rows:
            return self._forward(torch.from_numpy(ids), torch.from_numpy(lengths)).numpy()

        with torch.inference_mode():
            return self._reader.encode(
                texts, forward, dimensions=self.dimensions, step=STEP, tokens=self._tokens_per_batch
            )

    def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        """See Reader."""
        return self._reader.unknown_shares(texts)

    def _forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return unit rows (batch, dimensions) on the CPU for ``ids`` (batch, width), ``lengths`` of them."""
        import torch
        from torch.nn import functional as F

        batch, width = ids.shape
        size, shape = self.dimensions, (self.dimensions,)
        ids, lengths = ids.to(self._device), lengths.to(self._device)
        kept = torch.arange(width, device=ids.device)[None] < lengths[:, None]
        mask = kept[:, None, None, :]
        x = F.embedding(ids, self._words) + self._positions[:width]
        x = F.layer_norm(x, shape, *self._norm, self._epsilon)
        for layer in self._layers:
            heads = F.linear(x, *layer["qkv"]).view(batch, width, 3, self._heads, size // self._heads)
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            mixed = mixed.transpose(1, 2).reshape(batch, width, size)
            x = F.layer_norm(x + F.linear(mixed, *layer["mix"]), shape, *layer["mixed"], self._epsilon)
            wide = F.gelu(F.linear(x, *layer["up"]))
            x = F.layer_norm(x + F.linear(wide, *layer["down"]), shape, *layer["norm"], self._epsilon)
        mean = (x.float() * kept[..., None]).sum(1) / lengths[:, None]
        return F.normalize(mean, dim=1).cpu()
