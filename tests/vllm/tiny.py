"""A tiny Llama with the chat template of Llama 3, a card for it, and vLLM's own server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOM = 1024
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": ROOM,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 64 << 20,
    "max_num_seqs": 32,
}
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def build_model(folder: Path) -> Path:
    """Write a Llama of 2 layers with random weights and a byte-level BPE trained on the spot."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        ["write a short and vivid text about the sea, the sky, a town, and what people do there"] * 3,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=SPECIAL[0], eos_token="<|eot_id|>", pad_token="<|end_of_text|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=ROOM,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def card_file(folder: Path, model: Path, **changes: Any) -> Path:
    """Write a card for ``model``; ``changes`` replace its keys."""
    data: dict[str, Any] = {
        "schema": 1,
        "name": "tiny",
        "title": "Tiny",
        "description": "A model of the tests.",
        "backend": "vllm",
        "model": str(model),
        "licence": {"name": "apache-2.0", "outputs": "no limits"},
        "sampling": [{"name": "careful", "temperature": 0.0}, {"name": "far", "temperature": 1.0, "top_p": 0.95}],
        "settings": {"vllm": ENGINE},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(data | changes))
    return path


@contextmanager
def serving(model: Path, folder: Path, *options: str) -> Iterator[str]:
    """Run vLLM's own server on ``model``, its log in ``folder``; yields its address when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = ["--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    given += ["--enforce-eager", "--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "32"]
    given += ["--no-enable-chunked-prefill", *options]
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *given],
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 500
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
