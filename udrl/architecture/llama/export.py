"""Llama and its relatives in the words of other programs: ONNX operators, GGUF tensors, CTranslate2's layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.closed_head import BLOCK, GAIN, NEVER, START, closed_by_constant
from udrl.architecture.llama.cache import cache_shape, longest
from udrl.architecture.protocol import CacheShape, GgufTensor
from udrl.errors import StudentError

if TYPE_CHECKING:
    from udrl.onnx_graph import Graph


@dataclass(frozen=True)
class LlamaExporter:
    """A relative of Llama as an `Exporter`.

    gguf_name: of its architecture in llama.cpp, which turns neighbouring numbers against each other where
    ``neighbours``, takes scaled angles there, and knows biases of these ``biases`` layers. Where the head is none of
    them, ``spare`` channels keep it closed (`closed_by_constant`).
    """

    gguf_name: str
    neighbours: bool = False
    biases: tuple[str, ...] = ()
    blockwise = True

    @property
    def spare(self) -> int:
        """Channels that the network is wider than it was trained."""
        return 0 if "output" in self.biases else BLOCK

    def cache_shape(self, config: Any) -> CacheShape:
        """Return that of `LlamaCache`, without its rows."""
        return cache_shape(config)

    def onnx_body(self, graph: Graph, model: Any, tokens: str) -> str:
        """Add blocks and the final norm; return the name of the norm at the last places."""
        inner, last = model.model, len(model.model.layers) - 1
        for name, table in zip(("cos", "sin"), _tables(model), strict=True):
            graph.weight(name, table)
        hidden, first = tokens, inner.layers[0].input_layernorm
        gain = graph.weight("0.gain", first.weight)
        x = graph.add("SimplifiedLayerNormalization", "0.attended", hidden, gain, epsilon=first.variance_epsilon)
        for index, block in enumerate(inner.layers):
            at = str(index)
            mixed = _onnx_attention(graph, at, x, block.self_attn)
            if index == last:  # from here on, only the last place of each row is needed
                mixed = graph.add("GatherND", "mixed.last", mixed, "last", batch_dims=1)
                hidden = graph.add("GatherND", "hidden.last", hidden, "last", batch_dims=1)
            out = _onnx_linear(graph, f"{at}.out", mixed, block.self_attn.o_proj)
            x, hidden = graph.residual_rms_norm(f"{at}.middle", hidden, out, block.post_attention_layernorm)
            both = _onnx_linear(graph, f"{at}.up", x, block.mlp.gate_proj, block.mlp.up_proj)
            gate, up = f"{at}.gate.half", f"{at}.up.half"
            graph.add("Split", (gate, up), both, axis=-1)
            active = graph.add("QuickGelu", f"{at}.active", gate, alpha=1.0)  # which is silu
            down = _onnx_linear(graph, f"{at}.down", graph.add("Mul", f"{at}.gated", active, up), block.mlp.down_proj)
            norm = inner.layers[index + 1].input_layernorm if index < last else inner.norm
            x, hidden = graph.residual_rms_norm(f"{at}.end", hidden, down, norm)
        return x

    def add_gguf_facts(self, writer: Any, model: Any) -> None:
        """Add the shape of ``model``, wider by the `spare` channels."""
        config, shape, width = model.config, cache_shape(model.config), model.config.hidden_size
        writer.add_context_length(longest(config))
        writer.add_embedding_length(width + self.spare)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(shape.heads)
        writer.add_key_length(shape.size)
        writer.add_value_length(shape.size)
        writer.add_rope_dimension_count(shape.size)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_layer_norm_rms_eps(config.rms_norm_eps * width / (width + self.spare))

    def gguf_tensors(self, model: Any, embeddings: Tensor, text_size: int) -> Iterator[GgufTensor]:
        """Yield all tensors; a bias of the head or the constant of the spare channels closes it to control ids."""
        slowed, stretch = _turns(model)
        scaled = not bool(torch.allclose(slowed, torch.ones_like(slowed), atol=1e-6)) or stretch != 1
        if scaled and not self.neighbours:
            raise StudentError(
                f"llama.cpp does not compute a {self.gguf_name} with scaled positions ("
                f"{model.config.rope_parameters['rope_type']}) as it was trained: take --format onnx or ctranslate2"
            )
        yield GgufTensor("token_embd.weight", self._wider(embeddings, START), matrix=True)
        if scaled:
            yield GgufTensor("rope_freqs.weight", slowed)
        for index, block in enumerate(model.model.layers):
            yield from self._gguf_block(f"blk.{index}", block, stretch**2)
        yield GgufTensor("output_norm.weight", self._wider_norm(model.model.norm.weight, GAIN))
        head = closed_by_constant(model.get_output_embeddings().weight[:text_size], len(embeddings), self.spare)
        yield GgufTensor("output.weight", head, matrix=True)
        if not self.spare:
            yield GgufTensor(
                "output.bias", torch.full((len(embeddings),), NEVER).index_fill_(0, torch.arange(text_size), 0.0)
            )

    def _gguf_block(self, at: str, block: Any, stretch: float) -> Iterator[GgufTensor]:
        attn, mlp = block.self_attn, block.mlp
        yield GgufTensor(f"{at}.attn_norm.weight", self._wider_norm(block.input_layernorm.weight))
        for name, layer in (("q", attn.q_proj), ("k", attn.k_proj), ("v", attn.v_proj)):
            rows, bias = layer.weight, layer.bias
            if self.neighbours and name != "v":
                rows, bias = (None if one is None else _paired(one, attn.head_dim) for one in (rows, bias))
            if name == "q" and stretch != 1:
                rows, bias = rows * stretch, None if bias is None else bias * stretch
            yield from self._gguf_linear(f"{at}.attn_{name}", self._wider(rows), bias)
        yield from self._gguf_linear(
            f"{at}.attn_output", self._taller(attn.o_proj.weight), self._taller(attn.o_proj.bias)
        )
        if hasattr(attn, "q_norm"):
            yield GgufTensor(f"{at}.attn_q_norm.weight", attn.q_norm.weight)
            yield GgufTensor(f"{at}.attn_k_norm.weight", attn.k_norm.weight)
        yield GgufTensor(f"{at}.ffn_norm.weight", self._wider_norm(block.post_attention_layernorm.weight))
        yield from self._gguf_linear(f"{at}.ffn_gate", self._wider(mlp.gate_proj.weight), mlp.gate_proj.bias)
        yield from self._gguf_linear(f"{at}.ffn_up", self._wider(mlp.up_proj.weight), mlp.up_proj.bias)
        yield from self._gguf_linear(
            f"{at}.ffn_down", self._taller(mlp.down_proj.weight), self._taller(mlp.down_proj.bias)
        )

    def _gguf_linear(self, name: str, weight: Tensor | None, bias: Tensor | None) -> Iterator[GgufTensor]:
        assert weight is not None
        yield GgufTensor(f"{name}.weight", weight, matrix=True)
        layer = name.rpartition(".")[2]
        if bias is not None:
            if layer not in self.biases:
                raise StudentError(
                    f"llama.cpp knows no bias of {layer} in a {self.gguf_name}: take --format onnx or ctranslate2"
                )
            yield GgufTensor(f"{name}.bias", bias)

    def _wider(self, rows: Tensor, constant: float = 0.0) -> Tensor:
        """Return ``rows`` (n, width) with the spare channels: the first of them is ``constant``, the others 0."""
        made = F.pad(rows, (0, self.spare))
        made[:, rows.shape[1] :][:, :1] = constant
        return made

    def _wider_norm(self, gain: Tensor, constant: float = 0.0) -> Tensor:
        """Return a norm's gain (width,) with the spare channels, over which the mean square is taken, too."""
        width = len(gain)
        made = F.pad(gain * (width / (width + self.spare)) ** 0.5, (0, self.spare))
        made[width:][:1] = constant
        return made

    def _taller(self, values: Tensor | None) -> Tensor | None:
        """Return a layer's weight (width, in) or bias (width,) that writes nothing into the spare channels."""
        return None if values is None else torch.cat([values, values.new_zeros(self.spare, *values.shape[1:])])

    def ctranslate2_spec(self, model: Any) -> Any:
        """Return the decoder's specification with blocks and the final norm."""
        from ctranslate2.specs import Activation, TransformerDecoderModelSpec
        from ctranslate2.specs.attention_spec import RotaryScalingType

        config, shape, inner = model.config, cache_shape(model.config), model.model
        slowed, stretch = _turns(model)
        context, with_norm = longest(config), hasattr(inner.layers[0].self_attn, "q_norm")
        made = TransformerDecoderModelSpec.from_config(
            config.num_hidden_layers, config.num_attention_heads, pre_norm=True, activation=Activation.SWISH,
            ffn_glu=True, rms_norm=True, rotary_dim=shape.size, rotary_interleave=False,
            rotary_base=config.rope_parameters["rope_theta"], rotary_scaling_type=RotaryScalingType.Su,
            original_max_position_embeddings=context, max_position_embeddings=context,
            num_heads_kv=shape.heads, head_dim=shape.size, qk_norm=with_norm,
        )  # fmt: skip
        decoder = made.decoder
        decoder.scale_embeddings = False
        for spec, block in zip(decoder.layer, inner.layers, strict=True):
            attn, mlp, attention = block.self_attn, block.mlp, spec.self_attention
            factors = _numbers(slowed)
            attention.rotary_scaling_short_factor = attention.rotary_scaling_long_factor = factors
            attention.layer_norm.gamma = _numbers(block.input_layernorm.weight)
            attention.queries_scale = _numbers(torch.tensor(attn.scaling * stretch**2))
            _ctranslate2_linear(attention.linear[0], attn.q_proj, attn.k_proj, attn.v_proj)
            _ctranslate2_linear(attention.linear[1], attn.o_proj)
            if with_norm:
                attention.q_norm.gamma, attention.k_norm.gamma = (
                    _numbers(attn.q_norm.weight),
                    _numbers(attn.k_norm.weight),
                )
            spec.ffn.layer_norm.gamma = _numbers(block.post_attention_layernorm.weight)
            _ctranslate2_linear(spec.ffn.linear_0, mlp.gate_proj)
            _ctranslate2_linear(spec.ffn.linear_0_noact, mlp.up_proj)
            _ctranslate2_linear(spec.ffn.linear_1, mlp.down_proj)
        decoder.layer_norm.gamma = _numbers(inner.norm.weight)
        made.config.layer_norm_epsilon = config.rms_norm_eps
        return made


def _tables(model: Any) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (context, size / 2) of the angles of every position."""
    places = torch.arange(longest(model.config))[None]
    cos, sin = model.model.rotary_emb(model.model.norm.weight.float(), places.to(model.model.norm.weight.device))
    half = cos.shape[-1] // 2
    return cos[0, :, :half], sin[0, :, :half]


def _turns(model: Any) -> tuple[Tensor, float]:
    """Return how many times slower than unscaled each pair is turned (size / 2,), and how many times longer it gets."""
    rotary, size = model.model.rotary_emb, cache_shape(model.config).size
    base = float(model.config.rope_parameters["rope_theta"])
    plain = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float) / size)
    return plain / rotary.inv_freq.float().cpu(), float(rotary.attention_scaling)


def _onnx_attention(graph: Graph, at: str, x: str, attn: Any) -> str:
    """Add the attention of a block to what its norm ``x`` gives; return the name of what the heads mix."""
    size = attn.head_dim
    kept = attn.k_proj.weight.shape[0] // size
    heads = attn.q_proj.weight.shape[0] // size
    qkv = (_onnx_linear(graph, f"{at}.qkv", x, attn.q_proj, attn.k_proj, attn.v_proj), "", "")
    if hasattr(attn, "q_norm"):
        parts = (f"{at}.q", f"{at}.k", f"{at}.v")
        graph.add(
            "Split", parts, qkv[0], graph.integers(f"{at}.split", heads * size, kept * size, kept * size), axis=-1
        )
        qkv = (_onnx_head_norm(graph, parts[0], attn.q_norm), _onnx_head_norm(graph, parts[1], attn.k_norm), parts[2])
    return graph.add(
        "GroupQueryAttention",
        (f"{at}.mixed", f"present.{at}.k", f"present.{at}.v"),
        *(*qkv, f"past.{at}.k", f"past.{at}.v", "seen", "total", "cos", "sin"),
        num_heads=heads,
        kv_num_heads=kept,
        do_rotary=1,
        rotary_interleaved=0,
    )


def _onnx_head_norm(graph: Graph, x: str, norm: Any) -> str:
    """Add the norm of each head of ``x`` (B, L, heads * size) by itself."""
    size = len(norm.weight)
    heads = graph.add("Reshape", f"{x}.heads", x, graph.integers(f"{x}.heads.shape", 0, 0, -1, size))
    gain = graph.weight(f"{x}.gain", norm.weight)
    made = graph.add("SimplifiedLayerNormalization", f"{x}.normed", heads, gain, epsilon=norm.variance_epsilon)
    flat = graph.integers(f"{x}.flat.shape", 0, 0, -1)
    return graph.add("Reshape", f"{x}.flat", made, flat)


def _onnx_linear(graph: Graph, output: str, x: str, *layers: Any) -> str:
    """Add linear layers that read the same as one, whose outputs follow each other."""
    weight, bias = _joined(*layers)
    return graph.linear(output, x, weight.T, bias)


def _joined(*layers: Any) -> tuple[Tensor, Tensor | None]:
    """Return the weights (out, in) and biases of ``layers`` one after the other; None where none has a bias."""
    weight = torch.cat([layer.weight for layer in layers])
    if all(layer.bias is None for layer in layers):
        return weight, None
    return weight, torch.cat([weight.new_zeros(len(one.weight)) if one.bias is None else one.bias for one in layers])


def _ctranslate2_linear(spec: Any, *layers: Any) -> None:
    weight, bias = _joined(*layers)
    spec.weight = _numbers(weight)
    if bias is not None:
        spec.bias = _numbers(bias)


def _numbers(values: Tensor) -> Any:
    return values.detach().float().cpu().contiguous().numpy()


def _paired(rows: Tensor, size: int) -> Tensor:
    """Return ``rows`` (heads * size, ...) with each number that is turned beside the one it is turned against."""
    return rows.view(-1, 2, size // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
