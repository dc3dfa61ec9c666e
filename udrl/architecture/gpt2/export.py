"""GPT-2 in the words of other programs: ONNX operators, GGUF tensors, CTranslate2's layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from udrl.architecture.closed_head import closed_head
from udrl.architecture.gpt2.cache import cache_shape
from udrl.architecture.protocol import CacheShape, GgufTensor

if TYPE_CHECKING:
    from udrl.onnx_graph import Graph


class Gpt2Exporter:
    """GPT-2 as an `Exporter`. Its linear layers keep their weights as (in, out)."""

    gguf_name = "gpt2"
    blockwise = False

    def cache_shape(self, config: Any) -> CacheShape:
        """Return that of `Gpt2Cache`, without its rows."""
        return cache_shape(config)

    def onnx_body(self, graph: Graph, model: Any, tokens: str) -> str:
        """Add positions, blocks and the final norm; return the name of the norm at the last places."""
        transformer, heads = model.transformer, model.config.n_head
        layers = len(transformer.h)
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
        return x

    def add_gguf_facts(self, writer: Any, model: Any) -> None:
        """Add the shape of ``model``."""
        config = model.config
        writer.add_context_length(config.n_positions)
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(model.transformer.h[0].mlp.c_fc.weight.shape[1])
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)

    def gguf_tensors(self, model: Any, embeddings: Tensor, text_size: int) -> Iterator[GgufTensor]:
        """Yield all tensors; the final norm is written without its gain and shift, which the closed head takes up."""
        transformer, width = model.transformer, model.config.n_embd

        def linear(name: str, layer: Any) -> Iterator[GgufTensor]:
            yield GgufTensor(f"{name}.weight", layer.weight.T, matrix=True)
            yield GgufTensor(f"{name}.bias", layer.bias)

        def norm(name: str, layer: Any) -> Iterator[GgufTensor]:
            yield GgufTensor(f"{name}.weight", layer.weight)
            yield GgufTensor(f"{name}.bias", layer.bias)

        yield GgufTensor("token_embd.weight", embeddings, matrix=True)
        yield GgufTensor("position_embd.weight", transformer.wpe.weight)
        for index, block in enumerate(transformer.h):
            at = f"blk.{index}"
            yield from norm(f"{at}.attn_norm", block.ln_1)
            yield from linear(f"{at}.attn_qkv", block.attn.c_attn)
            yield from linear(f"{at}.attn_output", block.attn.c_proj)
            yield from norm(f"{at}.ffn_norm", block.ln_2)
            yield from linear(f"{at}.ffn_up", block.mlp.c_fc)
            yield from linear(f"{at}.ffn_down", block.mlp.c_proj)
        yield GgufTensor("output_norm.weight", torch.ones(width))
        yield GgufTensor("output_norm.bias", torch.ones(width))
        head = closed_head(model.lm_head.weight[:text_size], transformer.ln_f, len(embeddings))
        yield GgufTensor("output.weight", head, matrix=True)

    def ctranslate2_spec(self, model: Any) -> Any:
        """Return the decoder's specification with positions, blocks and the final norm."""
        from ctranslate2.specs import Activation, TransformerDecoderModelSpec

        config, transformer = model.config, model.transformer
        made = TransformerDecoderModelSpec.from_config(
            config.n_layer, config.n_head, pre_norm=True, activation=Activation.GELUTanh
        )

        def numbers(values: Tensor) -> Any:
            return values.detach().float().cpu().contiguous().numpy()

        def linear(spec: Any, layer: Any) -> None:
            spec.weight, spec.bias = numbers(layer.weight.T), numbers(layer.bias)

        def norm(spec: Any, layer: Any) -> None:
            spec.gamma, spec.beta = numbers(layer.weight), numbers(layer.bias)

        decoder = made.decoder
        decoder.scale_embeddings = False
        decoder.position_encodings.encodings = numbers(transformer.wpe.weight)
        for spec, block in zip(decoder.layer, transformer.h, strict=True):
            norm(spec.self_attention.layer_norm, block.ln_1)
            linear(spec.self_attention.linear[0], block.attn.c_attn)
            linear(spec.self_attention.linear[1], block.attn.c_proj)
            norm(spec.ffn.layer_norm, block.ln_2)
            linear(spec.ffn.linear_0, block.mlp.c_fc)
            linear(spec.ffn.linear_1, block.mlp.c_proj)
        norm(decoder.layer_norm, transformer.ln_f)
        made.config.layer_norm_epsilon = config.layer_norm_epsilon
        return made
