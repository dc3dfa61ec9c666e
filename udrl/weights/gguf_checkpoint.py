"""A GGUF file as a checkpoint: transformers dequantises it once, and what it makes is kept for the next time.

Students are trained from, and teachers and vLLM's engine load, that checkpoint: a folder in float32 with a tokenizer.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

from udrl.errors import MissingDependency, WeightsError, is_installed, is_out_of_memory
from udrl.files import alone, disk_errors, replacing_folder, user_cache
from udrl.progress import say
from udrl.weights.gguf_file import Head, check_head, excerpt, read_head

HEAD, BODY = "head.gguf", "body.gguf"
LISTS = ("tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
"""Facts that only a tokenizer needs."""
TOKENS = "tokenizer.ggml.tokens"
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Ways to split a text before its pieces are merged, by llama.cpp's names, that take digits one by one and then split
as GPT-2 does; transformers reads them as GPT-2's."""
AS_GPT2 = (
    "gpt-2",
    "gpt2",
    "mpt",
    "olmo",
    "phi-2",
    "jina-es",
    "jina-de",
    "jina-v2-es",
    "jina-v2-de",
    "jais",
    "trillion",
)
"""Those that are GPT-2's."""


def checkpoint_of(file: Path, name: str, sha256: str) -> Path:
    """Return the checkpoint of the GGUF ``file``, called ``name`` in messages, and make it where there is none yet.

    It lies in the user's cache, by the file's hash. Raises WeightsError for a file that cannot be read.
    """
    if not is_installed("gguf") or not is_installed("accelerate"):
        raise MissingDependency(f"reading the GGUF file '{name}' needs its package: pip install 'udrl[gguf]'")
    folder = user_cache() / "weights" / f"{sha256[:32]}-{importlib.metadata.version('transformers')}"
    with disk_errors(folder):
        folder.parent.mkdir(exist_ok=True)
    with alone(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            head = read_head(file, name)
            check_head(head, name)
            _check_room(head, name, folder.parent)
            say(f"reading the weights of {name}, once: they are kept in {folder}")
            with replacing_folder(folder) as made:
                _convert(file, head, name, made)
    return folder


def _check_room(head: Head, name: str, folder: Path) -> None:
    """Raise WeightsError where the disk does not hold the weights in float32 beside a copy of the file."""
    needed = 4 * sum(tensor.elements for tensor in head.tensors) + head.size
    if (free := shutil.disk_usage(folder).free) < needed:
        raise WeightsError(
            f"the weights of '{name}' take {needed / 1e9:,.1f} GB while they are read, and {folder} has "
            f"{free / 1e9:,.1f} GB free: set UDRL_CACHE to a folder on a larger disk"
        )


def _convert(file: Path, head: Head, name: str, folder: Path) -> None:
    """Fill ``folder`` with the checkpoint of ``file``."""
    named = f"the GGUF file '{name}' (architecture {head.architecture})"
    try:
        excerpt(file, head, folder / HEAD, tensors=False)
        sized = f"{head.architecture}.vocab_size" in head.values
        excerpt(file, head, folder / BODY, leave_out=(*LISTS, *([TOKENS] if sized else [])), tensors=True)
        tokenizer = _tokenizer(folder, head, name)
        model = _model(folder)
    except (MemoryError, WeightsError):
        raise
    except Exception as error:  # transformers, tokenizers and gguf raise whatever they like
        if is_out_of_memory(error):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise WeightsError(
            f"{named} cannot be read by transformers ({first}): take the model's safetensors, or another file"
        ) from error
    finally:
        for part in (HEAD, BODY):
            (folder / part).unlink(missing_ok=True)
    there, taken = sum(tensor.elements for tensor in head.tensors), sum(one.numel() for one in model.parameters())
    if there != taken:
        raise WeightsError(
            f"{named} holds {there:,} weights, of which transformers makes a model of {taken:,}: take the model's "
            "safetensors, or another file"
        )
    check_finite(model, name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _model(folder: Path) -> Any:
    """Return the language model of the file in ``folder``, in float32.

    Its weights stand in a new model of the same config: the one that transformers reads counts as quantised, and is not
    saved. Raises ValueError where weights are missing.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is said here
    try:
        read, report = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=BODY, dtype=torch.float32, output_loading_info=True, local_files_only=True,
            trust_remote_code=False,
        )  # fmt: skip
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"it lacks weights, such as {missing[0]}")
    kept = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(type(read.config).from_dict(kept), dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def _tokenizer(folder: Path, head: Head, name: str) -> Any:
    """Return the tokenizer of the file in ``folder``, which splits texts as the model's own does.

    Raises WeightsError for a way to split that is not known: the model would read other pieces than it learned.
    """
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=HEAD, local_files_only=True)
    count, backend = len(head.values[TOKENS]), tokenizer.backend_tokenizer
    if beyond := sorted(token for token, index in tokenizer.get_vocab().items() if index >= count):
        raise ValueError(f"it makes a tokenizer with tokens of its own ({', '.join(beyond[:3])})")
    split = head.values.get("tokenizer.ggml.pre")
    if head.values.get("tokenizer.ggml.model") == "gpt2":
        if split in DIGITS_APART:
            parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
        elif split not in AS_GPT2 and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
            raise WeightsError(
                f"the tokenizer in the GGUF file '{name}' splits texts in a way that is not known here "
                f"(tokenizer.ggml.pre is {split!r}): take the model's safetensors"
            )
    return tokenizer


def check_finite(model: Any, name: str) -> None:
    """Raise WeightsError where a weight of ``model`` is infinite or no number."""
    import torch

    for key, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"the weights of '{name}' are not finite (in {key}): copy or train it again")
