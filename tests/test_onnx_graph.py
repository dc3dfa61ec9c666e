"""ONNX graphs: products in 8 bits are close to those in float32, whatever their sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from udrl.hardware import onnx_session
from udrl.onnx_graph import BLOCK, Graph, quantise_blocks, tensor


def product(folder: Path, weight: Any, bias: Any, x: Any, **kind: bool) -> Any:
    graph = Graph(**kind)
    graph.linear("y", "x", weight, bias)
    inputs, outputs = weight.shape
    shapes = ("FLOAT", "rows", inputs), ("FLOAT", "rows", outputs)
    graph.save(folder / "model.onnx", "product", inputs=[tensor("x", *shapes[0])], outputs=[tensor("y", *shapes[1])])
    return onnx_session(str(folder / "model.onnx")).get().run(None, {"x": x})[0]


@pytest.mark.parametrize(("inputs", "outputs", "with_bias"), [(96, 40, False), (80, 33, True), (7, 3, True)])
def test_blocks_of_8_bits_multiply_as_float32_does(inputs: int, outputs: int, with_bias: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, x = (rng.normal(size=size).astype(np.float32) for size in ((inputs, outputs), (5, inputs)))
    bias = rng.normal(size=outputs).astype(np.float32) if with_bias else None
    exact = x @ weight + (0 if bias is None else bias)
    made = product(tmp_path, weight, bias, x, quantised=True, blockwise=True)
    assert 0 < np.abs(made - exact).mean() < 0.02 * np.abs(exact).mean()


def test_an_outlier_costs_its_own_block_alone_its_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, x = (rng.normal(size=size).astype(np.float32) for size in ((96, 40), (5, 96)))
    weight[:BLOCK], x[:, 0] = 0, 1000
    exact = x @ weight
    apart = [
        np.abs(product(tmp_path, weight, None, x, quantised=True, blockwise=blockwise) - exact).mean()
        for blockwise in (True, False)
    ]
    assert apart[0] < 0.02 * np.abs(exact).mean() < 0.5 * np.abs(exact).mean() < apart[1]


def test_blocks_hold_the_weight_up_to_half_a_step() -> None:
    weight = np.random.default_rng(1).normal(size=(70, 5)).astype(np.float32)
    whole, scale = quantise_blocks(weight)
    assert whole.shape == (5, 3, BLOCK)
    back = ((whole.astype(np.float32) - 128) * scale.reshape(5, 3, 1)).reshape(5, -1)
    assert np.abs(back[:, :70].T - weight).max() <= 0.5001 * scale.max()
    assert not back[:, 70:].any()
    zeros, scales = quantise_blocks(np.zeros((32, 2), dtype=np.float32))
    assert (zeros == 128).all()
    assert np.isfinite(scales).all()
