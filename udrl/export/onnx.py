"""The ONNX graph of a GPT-2 student, written node by node: nothing is traced, and nothing is in it that need not be.

Inputs: ``ids`` (B, L) and ``positions`` (B, L); ``last`` (B, 1), the place of each row's last real id; ``seen`` (B,),
how many ids a row has after this step, less one; ``total``, the largest of them and one; and a key-value cache
``past.I.k``, ``past.I.v`` (B, heads, places, size) a layer, whose outputs ``present.*`` may be the same memory. Rows
are padded at their *end* and each has a length of its own in the cache, so that there is no mask. Output: ``logits``
(B, text ids) behind the last place; control ids are never predicted.

Attention, residual norms and the activation are ONNX Runtime's own operators (domain com.microsoft).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from udrl.student.engines.onnx import FILE
from udrl.student.network import StudentModel

DOMAIN = "com.microsoft"
STEPS = 63
"""Largest int8 weight. Processors without VNNI add two products of 8 bits up in 16, where larger weights overflow: on
one, 127 moved the distribution of the next token four times as far (Kullback-Leibler .0049, not .0011), the language
model's head most."""

Array = npt.NDArray[Any]


@torch.no_grad()
def write_graph(student: StudentModel, folder: Path, *, quantised: bool) -> None:
    """Write ``model.onnx`` and ``model.onnx.data`` of a GPT-2 student, whose ``packed`` must be true.

    quantised: weights of matrix products as int8, one scale an output channel; activations are quantised as they come
    (`DynamicQuantizeMatMul`). Embeddings, norms and attention stay float32.
    """
    graph = _Graph(quantised=quantised)
    model, space = student.model, student.space
    config, transformer = model.config, model.transformer
    layers, heads, width = config.n_layer, config.n_head, config.n_embd
    embedding = torch.cat([transformer.wte.weight[: space.base], student.rows.table()])
    tokens = graph.add("Gather", "tokens", graph.weight("embedding", embedding), "ids")
    places = graph.add("Gather", "places", graph.weight("place", transformer.wpe.weight), "positions")
    hidden = graph.add("Add", "embedded", tokens, places)
    first = transformer.h[0].ln_1
    x = graph.add(
        "LayerNormalization",
        "0.attended",
        hidden,
        graph.weight("0.gain", first.weight),
        graph.weight("0.shift", first.bias),
        epsilon=first.eps,
        axis=-1,
    )
    for index, block in enumerate(transformer.h):
        at = str(index)
        qkv = graph.linear(f"{at}.qkv", x, block.attn.c_attn.weight, block.attn.c_attn.bias)
        mixed = graph.add(
            "GroupQueryAttention",
            (f"{at}.mixed", f"present.{at}.k", f"present.{at}.v"),
            *(qkv, "", "", f"past.{at}.k", f"past.{at}.v", "seen", "total"),
            num_heads=heads,
            kv_num_heads=heads,
        )
        if index == layers - 1:  # from here on, only the last place of each row is needed
            mixed = graph.add("GatherND", "mixed.last", mixed, "last", batch_dims=1)
            hidden = graph.add("GatherND", "hidden.last", hidden, "last", batch_dims=1)
        out = graph.linear(f"{at}.out", mixed, block.attn.c_proj.weight)
        x, hidden = graph.residual_norm(f"{at}.middle", hidden, out, block.attn.c_proj.bias, block.ln_2)
        up = graph.linear(f"{at}.up", x, block.mlp.c_fc.weight)
        active = graph.add("FastGelu", f"{at}.active", up, graph.weight(f"{at}.up.bias", block.mlp.c_fc.bias))
        down = graph.linear(f"{at}.down", active, block.mlp.c_proj.weight)
        norm = transformer.h[index + 1].ln_1 if index + 1 < layers else transformer.ln_f
        x, hidden = graph.residual_norm(f"{at}.end", hidden, down, block.mlp.c_proj.bias, norm)
    graph.linear("logits", x, model.lm_head.weight[: space.base].T)
    graph.save(folder / FILE, layers=layers, heads=heads, size=width // heads, text_ids=space.base)


class _Graph:
    """Nodes as they are written down; a node is named after what it gives."""

    def __init__(self, *, quantised: bool) -> None:
        self.quantised = quantised
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, output: str | tuple[str, ...], *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its (first) output."""
        from onnx import helper

        outputs = [output] if isinstance(output, str) else list(output)
        domain = DOMAIN if kind in _OF_RUNTIME else ""
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def weight(self, name: str, values: torch.Tensor | Array) -> str:
        """Add a constant; returns its name."""
        from onnx import numpy_helper

        array = values.cpu().numpy() if isinstance(values, torch.Tensor) else values
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def linear(self, output: str, x: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> str:
        """Add x @ weight (+ bias), weight (in, out)."""
        offset = [] if bias is None else [self.weight(f"{output}.bias", bias)]
        if self.quantised:
            whole, scale = quantise(weight.cpu().numpy())
            parts = self.weight(f"{output}.weight", whole), self.weight(f"{output}.scale", scale)
            return self.add("DynamicQuantizeMatMul", output, x, *parts, "", *offset)
        name = self.weight(f"{output}.weight", weight)
        if not offset:
            return self.add("MatMul", output, x, name)
        return self.add("Add", output, self.add("MatMul", f"{output}.product", x, name), *offset)

    def residual_norm(self, output: str, hidden: str, x: str, bias: torch.Tensor, norm: Any) -> tuple[str, str]:
        """Add hidden + x + bias and its layer norm; returns the names of the norm and of the sum."""
        gain, shift = self.weight(f"{output}.gain", norm.weight), self.weight(f"{output}.shift", norm.bias)
        whole = f"{output}.sum"
        offset = self.weight(f"{output}.bias", bias)
        outputs = (output, "", "", whole)
        self.add("SkipLayerNormalization", outputs, hidden, x, gain, shift, offset, epsilon=norm.eps)
        return output, whole

    def save(self, path: Path, *, layers: int, heads: int, size: int, text_ids: int) -> None:
        """Write the model, its weights in a file beside it."""
        import onnx
        from onnx import TensorProto, helper

        def value(name: str, kind: int, *shape: int | str) -> Any:
            return helper.make_tensor_value_info(name, kind, list(shape))

        cache = [(f"{index}.{part}", ("rows", heads, "places", size)) for index in range(layers) for part in "kv"]
        inputs = [
            value("ids", TensorProto.INT64, "rows", "length"),
            value("positions", TensorProto.INT64, "rows", "length"),
            value("last", TensorProto.INT64, "rows", 1),
            value("seen", TensorProto.INT32, "rows"),
            value("total", TensorProto.INT32),
            *(value(f"past.{name}", TensorProto.FLOAT, *shape) for name, shape in cache),
        ]
        outputs = [
            value("logits", TensorProto.FLOAT, "rows", text_ids),
            *(value(f"present.{name}", TensorProto.FLOAT, *shape) for name, shape in cache),
        ]
        graph = helper.make_graph(self.nodes, "student", inputs, outputs, self.weights)
        versions = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=8)
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")


_OF_RUNTIME = ("GroupQueryAttention", "DynamicQuantizeMatMul", "SkipLayerNormalization", "FastGelu")


def quantise(weight: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return ``weight`` (in, out) as int8 and the scale (out,) of each column, symmetric around zero."""
    scale = np.maximum(np.abs(weight).max(0), 1e-12).astype(np.float32) / STEPS
    return np.rint(weight / scale).astype(np.int8), scale
