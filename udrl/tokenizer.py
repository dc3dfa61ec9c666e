"""Text to ids and back, the same for training, generation and every engine.

A space is put before every text, so that a word has the same ids at the start of a text as inside it: what must be
copied looks the same on both sides. Special tokens inside a text are split: ``<|endoftext|>`` typed by a user is text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

END = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE on ``texts`` and return it as a transformers fast tokenizer.

    vocab_size: ids including the 256 bytes and the end token. Byte-level means that any text can be encoded.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" " + text for text in texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, model_max_length=1024)


def load_tokenizer(path: str | Path, **options: Any) -> Any:
    """Load a transformers fast tokenizer from a folder or the hub."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path), use_fast=True, **options)


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts as ordinary text: no special token is added, none is recognised."""
    if not texts:
        return []
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        return [e.ids for e in backend.encode_batch_fast([" " + t for t in texts], add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of ``ids``: the inverse of `encode` for every text."""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.removeprefix(" ")
