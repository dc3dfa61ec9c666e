"""The ONNX graph of a student: the embedding of text and control ids, the family's own blocks, the head.

Inputs: ``ids`` (B, L) and ``positions`` (B, L); ``last`` (B, 1), the place of each row's last real id; ``seen`` (B,),
how many ids a row has after this step, less one; ``total``, the largest of them and one; and a key-value cache
``past.I.k``, ``past.I.v`` (B, heads, places, size) a layer, whose outputs ``present.*`` may be the same memory. Rows
are padded at their *end* and each has a length of its own in the cache, so that there is no mask. Output: ``logits``
(B, text ids) behind the last place; control ids are never predicted.
"""

from __future__ import annotations

from pathlib import Path

import torch

from udrl.export.parts import exporter_of
from udrl.onnx_graph import Graph, tensor
from udrl.student.engines.onnx import FILE
from udrl.student.network import StudentModel


@torch.no_grad()
def write_graph(student: StudentModel, folder: Path, *, quantised: bool) -> None:
    """Write ``model.onnx`` and ``model.onnx.data``.

    quantised: matrix products in int8, activations quantised as they come: with one scale an output channel and one for
    all activations, or, where the family's `Exporter` says so, `blockwise`. Embeddings, norms and attention stay
    float32.
    """
    exporter, model, base = exporter_of(student), student.model, student.space.base
    graph = Graph(quantised=quantised, blockwise=exporter.blockwise)
    embedding = torch.cat([model.get_input_embeddings().weight[:base], student.rows.table()])
    tokens = graph.add("Gather", "tokens", graph.weight("embedding", embedding), "ids")
    hidden = exporter.onnx_body(graph, model, tokens)
    graph.linear("logits", hidden, model.get_output_embeddings().weight[:base].T)
    shape = exporter.cache_shape(model.config)
    places = ("rows", shape.heads, "places", shape.size)
    parts = [f"{index}.{part}" for index in range(shape.layers) for part in "kv"]
    inputs = [
        tensor("ids", "INT64", "rows", "length"),
        tensor("positions", "INT64", "rows", "length"),
        tensor("last", "INT64", "rows", 1),
        tensor("seen", "INT32", "rows"),
        tensor("total", "INT32"),
        *(tensor(f"past.{part}", "FLOAT", *places) for part in parts),
    ]
    outputs = [
        tensor("logits", "FLOAT", "rows", base),
        *(tensor(f"present.{part}", "FLOAT", *places) for part in parts),
    ]
    graph.save(folder / FILE, "student", inputs=inputs, outputs=outputs)
