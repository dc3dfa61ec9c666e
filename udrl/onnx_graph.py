"""ONNX graphs written node by node: nothing is traced, and nothing is in them that need not be.

Attention, residual norms and the activation may be ONNX Runtime's own operators (domain com.microsoft).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

DOMAIN = "com.microsoft"
OF_RUNTIME = ("GroupQueryAttention", "DynamicQuantizeMatMul", "SkipLayerNormalization", "FastGelu")
"""The operators of that domain."""
STEPS = 63
"""Largest int8 weight. Processors without VNNI add two products of 8 bits up in 16, where larger weights overflow: on
one, 127 moved the distribution of the next token four times as far (Kullback-Leibler .0049, not .0011), the language
model's head most."""

Array = npt.NDArray[Any]


class Graph:
    """Nodes as they are written down; a node is named after what it gives."""

    def __init__(self, *, quantised: bool) -> None:
        self.quantised = quantised
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, output: str | tuple[str, ...], *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its (first) output."""
        from onnx import helper

        outputs = [output] if isinstance(output, str) else list(output)
        domain = DOMAIN if kind in OF_RUNTIME else ""
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def weight(self, name: str, values: Tensor | Array) -> str:
        """Add a constant; returns its name."""
        from onnx import numpy_helper

        array = values if isinstance(values, np.ndarray) else values.cpu().numpy()
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def linear(self, output: str, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
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

    def residual_norm(self, output: str, hidden: str, x: str, bias: Tensor, norm: Any) -> tuple[str, str]:
        """Add hidden + x + bias and its layer norm; returns the names of the norm and of the sum."""
        gain, shift = self.weight(f"{output}.gain", norm.weight), self.weight(f"{output}.shift", norm.bias)
        whole = f"{output}.sum"
        offset = self.weight(f"{output}.bias", bias)
        outputs = (output, "", "", whole)
        self.add("SkipLayerNormalization", outputs, hidden, x, gain, shift, offset, epsilon=norm.eps)
        return output, whole

    def save(self, path: Path, name: str, *, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Write the model, its weights in a file beside it. inputs, outputs: what `tensor` returned."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        versions = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=8)
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")


def tensor(name: str, kind: str, *shape: int | str) -> Any:
    """Return the description of an input or output. kind: "FLOAT", "INT32", "INT64"; shape: sizes, or their names."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(shape))


def quantise(weight: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return ``weight`` (in, out) as int8 and the scale (out,) of each column, symmetric around zero."""
    scale = np.maximum(np.abs(weight).max(0), 1e-12).astype(np.float32) / STEPS
    return np.rint(weight / scale).astype(np.int8), scale
