"""The same forward pass in ONNX Runtime: float32 for CPUs that have no bf16 units.

ONNX Runtime is as fast on batches of 64 tokens as torch is on 256, so that texts go through by their exact lengths,
without padding, masks, or much that fills a batch up. Vectors differ from torch's by about 2e-7. The graph is written
here, node by node, over the same weights: nothing is exported or kept on disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udrl.encoder.bert import Reader, Rows, read_weights
from udrl.hardware import onnx_session
from udrl.onnx_graph import Graph, tensor

TOKENS_PER_BATCH = 64
"""128 is up to 6 % faster on full batches and loses as much on the last one of each length."""


class OnnxBert:
    """The weights and tokenizer of one model in a session of ONNX Runtime; calls like ``Bert``, on the CPU."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.dimensions = int(config["hidden_size"])
        self._reader = Reader(folder)
        graph = Graph(opset=20, ir_version=10)
        _write(graph, read_weights(folder), config)
        network = graph.to_bytes(
            "encoder",
            inputs=[tensor("ids", "INT64", "rows", "width")],
            outputs=[tensor("vectors", "FLOAT", "rows", self.dimensions)],
        )

        self._session = onnx_session(network, graph.weights)

    def __call__(self, texts: Sequence[str]) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Encode ``texts``; see Bert."""

        def forward(ids: npt.NDArray[np.int64], _: npt.NDArray[np.int64]) -> Rows:
            rows: Rows = self._session.get().run(None, {"ids": ids})[0]
            return rows

        return self._reader.encode(texts, forward, dimensions=self.dimensions, step=1, tokens=TOKENS_PER_BATCH)

    def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        """See Reader."""
        return self._reader.unknown_shares(texts)


def _write(graph: Graph, saved: dict[str, Rows], config: dict[str, Any]) -> None:
    """Write the forward pass: ids (rows, width) -> vectors (rows, dimensions), every row as long as the others."""
    size, heads = int(config["hidden_size"]), int(config["num_attention_heads"])

    def norm(output: str, x: str, name: str) -> str:
        weight, bias = (graph.weight(f"{output}.{part}", saved[f"{name}.{part}"]) for part in ("weight", "bias"))
        return graph.add(
            "LayerNormalization", output, x, weight, bias, axis=-1, epsilon=float(config["layer_norm_eps"])
        )

    def linear(output: str, x: str, name: str, scale: float = 1.0) -> str:
        return graph.linear(output, x, (saved[f"{name}.weight"] * scale).T, saved[f"{name}.bias"] * scale)

    shape = graph.add("Shape", "shape", "ids")
    width = graph.add("Shape", "width", "ids", start=1)
    apart = graph.add("Concat", "apart", shape, graph.integers("heads", heads, size // heads), axis=0)
    joined = graph.add("Concat", "joined", shape, graph.integers("size", size), axis=0)
    words = graph.weight("words", saved["embeddings.word_embeddings.weight"])
    kinds = saved["embeddings.token_type_embeddings.weight"]
    position_embeddings = graph.weight("places", saved["embeddings.position_embeddings.weight"] + kinds[0])
    first = graph.add("Slice", "positions", position_embeddings, graph.integers("start", 0), width)
    x = graph.add("Add", "embedded", graph.add("Gather", "tokens", words, "ids"), first)
    x = norm("x", x, "embeddings.LayerNorm")
    for index in range(int(config["num_hidden_layers"])):
        at, layer = f"{index}", f"encoder.layer.{index}"
        parts = {}
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            scale = (size // heads) ** -0.5 if part == "query" else 1.0
            flat = linear(f"{at}.{part}", x, f"{layer}.attention.self.{part}", scale)
            split = graph.add("Reshape", f"{flat}.split", flat, apart)
            parts[part] = graph.add("Transpose", f"{flat}.heads", split, perm=order)
        scores = graph.add("MatMul", f"{at}.scores", parts["query"], parts["key"])
        shares = graph.add("Softmax", f"{at}.shares", scores, axis=-1)
        mixed = graph.add("MatMul", f"{at}.mixed", shares, parts["value"])
        mixed = graph.add("Transpose", f"{at}.turned", mixed, perm=[0, 2, 1, 3])
        mixed = graph.add("Reshape", f"{at}.flat", mixed, joined)
        mixed = linear(f"{at}.output", mixed, f"{layer}.attention.output.dense")
        x = norm(f"{at}.middle", graph.add("Add", f"{at}.sum", x, mixed), f"{layer}.attention.output.LayerNorm")
        wide = graph.add("Gelu", f"{at}.gelu", linear(f"{at}.up", x, f"{layer}.intermediate.dense"))
        down = linear(f"{at}.down", wide, f"{layer}.output.dense")
        x = norm(f"{at}.end", graph.add("Add", f"{at}.total", x, down), f"{layer}.output.LayerNorm")
    mean = graph.add("ReduceMean", "mean", x, graph.integers("axis", 1), keepdims=0)
    graph.add("LpNormalization", "vectors", mean, axis=-1, p=2)
