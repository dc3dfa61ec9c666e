"""ONNX graphs of students and encoders, written node by node: nothing is traced, nothing needless is in them.

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
OF_RUNTIME = (
    "GroupQueryAttention", "DynamicQuantizeMatMul", "MatMulNBits", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "FastGelu", "QuickGelu",
)  # fmt: skip
"""The operators of that domain."""
STEPS = 63
"""Largest int8 weight. Processors without VNNI add two products of 8 bits up in 16, where larger weights overflow: on
one, 127 moved the distribution of the next token four times as far (Kullback-Leibler .0049, not .0011), the language
model's head most."""
BLOCK = 32
"""Numbers that share a scale where products are `blockwise`."""
IN_INT8 = 4
"""The "accuracy level" of MatMulNBits at which activations are quantised as well."""

Array = npt.NDArray[Any]


class Graph:
    """Nodes as they are written down, each named after what it gives. weights: constants by name."""

    def __init__(
        self, *, quantised: bool = False, blockwise: bool = False, opset: int = 17, ir_version: int = 8
    ) -> None:
        """Begin.

        quantised: `linear` multiplies in int8, weights with one scale an output and activations with one for all;
        blockwise: with one for every `BLOCK` numbers of a row, of both. opset, ir_version: of the operators and of the
        file.
        """
        self.quantised, self.blockwise, self.opset, self.ir_version = quantised, blockwise, opset, ir_version
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}
        self.sizes: list[Any] = []

    def add(self, kind: str, output: str | tuple[str, ...], *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its (first) output."""
        from onnx import helper

        outputs = [output] if isinstance(output, str) else list(output)
        domain = DOMAIN if kind in OF_RUNTIME else ""
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def weight(self, name: str, values: Tensor | Array) -> str:
        """Add a constant; returns its name."""
        array = values if isinstance(values, np.ndarray) else values.cpu().numpy()
        self.weights[name] = np.ascontiguousarray(array)
        return name

    def integers(self, name: str, *values: int) -> str:
        """Add sizes or axes, a constant that stays within the graph; returns its name."""
        from onnx import numpy_helper

        self.sizes.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def linear(self, output: str, x: str, weight: Tensor | Array, bias: Tensor | Array | None = None) -> str:
        """Add x @ weight (+ bias), weight (in, out)."""
        offset = [] if bias is None else [self.weight(f"{output}.bias", bias)]
        if self.quantised and self.blockwise:
            array = weight if isinstance(weight, np.ndarray) else weight.cpu().numpy()
            blocks, scales = quantise_blocks(array)
            parts = self.weight(f"{output}.weight", blocks), self.weight(f"{output}.scale", scales)
            rest = ["", "", *offset] if offset else []
            inputs, outputs = array.shape
            return self.add(
                "MatMulNBits", output, x, *parts, *rest,
                K=inputs, N=outputs, bits=8, block_size=BLOCK, accuracy_level=IN_INT8,
            )  # fmt: skip
        if self.quantised:
            whole, scale = quantise(weight if isinstance(weight, np.ndarray) else weight.cpu().numpy())
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

    def residual_rms_norm(self, output: str, hidden: str, x: str, norm: Any) -> tuple[str, str]:
        """Add hidden + x and its root-mean-square norm; returns the names of the norm and of the sum."""
        gain, whole = self.weight(f"{output}.gain", norm.weight), f"{output}.sum"
        outputs = (output, "", "", whole)
        self.add("SkipSimplifiedLayerNormalization", outputs, hidden, x, gain, epsilon=norm.variance_epsilon)
        return output, whole

    def save(self, path: Path, name: str, *, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Write the model, its weights in a file beside it. inputs, outputs: what `tensor` returned."""
        import onnx
        from onnx import numpy_helper

        weights = [numpy_helper.from_array(array, weight) for weight, array in self.weights.items()]
        model = self._model(name, inputs, outputs, weights)
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data")

    def to_bytes(self, name: str, *, inputs: Sequence[Any], outputs: Sequence[Any]) -> bytes:
        """Return the model without its ``weights`` (float32), which a session is given by name."""
        from onnx import TensorProto

        outside = []
        for weight, array in self.weights.items():
            left_out = TensorProto(name=weight, data_type=TensorProto.FLOAT, dims=array.shape)
            left_out.data_location = TensorProto.EXTERNAL
            left_out.external_data.add(key="location", value="weights")
            outside.append(left_out)
        return bytes(self._model(name, inputs, outputs, outside).SerializeToString())

    def _model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any]) -> Any:
        from onnx import helper

        graph = helper.make_graph(self.nodes, name, inputs, outputs, [*self.sizes, *weights])
        versions = [helper.make_opsetid("", self.opset), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=self.ir_version)


def tensor(name: str, kind: str, *shape: int | str) -> Any:
    """Return the description of an input or output. kind: "FLOAT", "INT32", "INT64"; shape: sizes, or their names."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(shape))


def quantise(weight: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return ``weight`` (in, out) as int8 and the scale (out,) of each column, symmetric around zero."""
    scale = np.maximum(np.abs(weight).max(0), 1e-12).astype(np.float32) / STEPS
    return np.rint(weight / scale).astype(np.int8), scale


def quantise_blocks(weight: Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return ``weight`` (in, out) as MatMulNBits reads it: 8 bits above 128 (out, blocks, `BLOCK`), and their scales.

    The scales (out * blocks,) make the largest number of a block 127; a last block that is cut off is filled with 0.
    """
    rows = np.pad(weight.T, ((0, 0), (0, -len(weight) % BLOCK))).reshape(weight.shape[1], -1, BLOCK)
    scale = np.maximum(np.abs(rows).max(-1, keepdims=True), 1e-12).astype(np.float32) / 127
    return (np.rint(rows / scale) + 128).astype(np.uint8), scale.ravel()
