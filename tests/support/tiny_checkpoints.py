"""Tiny random checkpoints of many families, as somebody else might hand them in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
TEXTS = [f"a red fox and a tall ship stand near an old harbour with {n} boats at dawn" for n in range(40)]
ROWS = 320
"""Ids of the tokenizer, and rows of the models' embeddings."""

_WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA = {**_WIDE, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 128}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_GEMMA = {**_LLAMA, "head_dim": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt2 gelu": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "activation_function": "gelu"},
    ),
    "llama": ("LlamaConfig", {**_LLAMA, "tie_word_embeddings": False, "pad_token_id": 3}),
    "llama tied": (
        "LlamaConfig",
        {**_LLAMA, "num_key_value_heads": 1, "head_dim": 12, "tie_word_embeddings": True, "rope_parameters": _LLAMA3},
    ),
    "llama biases": (
        "LlamaConfig",
        {**_LLAMA, "num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "rope_parameters": _YARN},
    ),
    "mistral": ("MistralConfig", {**_LLAMA, "sliding_window": 64}),
    "qwen2": ("Qwen2Config", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen2 window": (
        "Qwen2Config",
        {**_LLAMA, "use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", {**_LLAMA, "head_dim": 16}),
    "qwen3 tied": ("Qwen3Config", {**_LLAMA, "head_dim": 8, "tie_word_embeddings": True, "attention_bias": True}),
    "gemma": ("GemmaConfig", {**_GEMMA, "pad_token_id": 0}),
    "gemma2": ("Gemma2Config", {**_GEMMA, "final_logit_softcapping": 0.05, "query_pre_attn_scalar": 8}),
    "cohere": ("CohereConfig", {**_LLAMA, "logit_scale": 0.0625}),
    "granite": ("GraniteConfig", {**_LLAMA, "embedding_multiplier": 12.0, "logits_scaling": 8.0}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "opt": (
        "OPTConfig",
        {**_WIDE, "ffn_dim": 48, "max_position_embeddings": 128, "word_embed_proj_dim": 16, "pad_token_id": 1},
    ),
    "gpt-j": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 8}),
    "starcoder2": ("Starcoder2Config", {**_LLAMA, "sliding_window": 12}),
    "mixtral": ("MixtralConfig", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
}


@cache
def _trained(end: str, extra: tuple[str, ...]) -> str:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS,
        special_tokens=[end, *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([f" {text}" for text in TEXTS], trainer)
    text: str = made.to_str()
    return text


def byte_level(end: str | None = END, extra: tuple[str, ...] = ("<|other|>", "<|third|>")) -> Any:
    """Return a byte-level tokenizer of `ROWS` ids; its special tokens come first."""
    backend = Tokenizer.from_str(_trained(end or END, extra))
    assert backend.get_vocab_size() == ROWS
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **({"eos_token": end} if end else {}))


def new_model(family: str, **changed: Any) -> Any:
    """Return a random model of ``family`` whose weights are large enough to tell computations apart."""
    name, options = FAMILIES[family]
    ids = {"vocab_size": ROWS, "eos_token_id": 0, "bos_token_id": None, "pad_token_id": None}
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**ids, **options, **changed})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def put(folder: Path, family: str = "llama", tokenizer: Any = None, **changed: Any) -> Path:
    """Write a checkpoint with its tokenizer (None: that of `byte_level`) into ``folder`` and return it."""
    new_model(family, **changed).save_pretrained(folder)
    (byte_level() if tokenizer is None else tokenizer).save_pretrained(folder)
    return folder
