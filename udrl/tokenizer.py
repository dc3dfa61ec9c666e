"""Text to ids and back, the same for training, generation and every engine.

A space is put before every text, so that a word has the same ids at the start of a text as inside it: what must be
copied looks the same on both sides. Special tokens inside a text are split: ``<|endoftext|>`` typed by a user is text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from udrl.errors import StudentError, damaged

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
    return text_only(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, model_max_length=1024)
    )


def load_tokenizer(path: str | Path, **options: Any) -> Any:
    """Load a transformers fast tokenizer from a folder or the hub."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer

    options = {"use_fast": True, "trust_remote_code": False, **options}
    return text_only(AutoTokenizer.from_pretrained(str(path), **options))


def text_only(tokenizer: Any) -> Any:
    """Let ``tokenizer`` read every text as text, for good, and return it: no special token is recognised any more.

    Said once, when it is loaded, so that threads share it: what is set anew at each call another thread may see unset.
    Transformers' own calls follow ``split_special_tokens``. Neither is saved with the tokenizer.
    Raises StudentError for a tokenizer that does not stand on the package tokenizers.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise StudentError(f"{type(tokenizer).__name__} is no fast tokenizer: save it with a tokenizer.json")
    tokenizer.split_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens = True
    return tokenizer


def student_tokenizer(folder: Path, *, light: bool = False) -> Any:
    """Load the tokenizer of a student, which lies in its folder; raises StudentError where it is damaged.

    light: as a `LightTokenizer`, which is enough to answer with.
    """
    with damaged(StudentError, f"the tokenizer in {folder}", "restore its files, or train again", errors=(Exception,)):
        return LightTokenizer(folder) if light else load_tokenizer(folder, local_files_only=True)


class LightTokenizer:
    """What answering needs of a student's tokenizer, without transformers, whose import takes seconds.

    Its names are those of a fast tokenizer of transformers, and so are its ids and texts.
    """

    def __init__(self, folder: Path) -> None:
        """Read ``tokenizer.json`` of ``folder``, and the end token out of ``tokenizer_config.json``."""
        from tokenizers import Tokenizer

        self.backend_tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        end = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
        self.eos_token: str | None = end["content"] if isinstance(end, dict) else end
        self.eos_token_id: int | None = None if end is None else self.backend_tokenizer.token_to_id(self.eos_token)
        text_only(self)

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The tokens that stand beside the vocabulary, by id."""
        added: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return added

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        """Return the name of each id, None where there is none."""
        return [self.backend_tokenizer.id_to_token(id_) for id_ in ids]

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        """Return the text of ``ids``; see `decode`."""
        text: str = self.backend_tokenizer.decode(list(ids), skip_special_tokens=options["skip_special_tokens"])
        return text


def ends_among(eos: int | None, *declared: Any) -> list[int]:
    """Return the ids that end an answer; the first is the one that training writes.

    eos: the tokenizer's end, which comes first. declared: the ends of a generation config and of a config, an id or a
    list each, or nothing. A list means that several end (Llama-3-Instruct). One other id alone is a disagreement
    (Qwen), in which the tokenizer is right; it counts where the tokenizer names none.
    """
    lists = [list(one) if isinstance(one, list | tuple) else [one] for one in declared]
    several = [one for ids in lists if len(ids) > 1 for one in ids]
    alone = [] if several or _is_id(eos) else [one for ids in lists for one in ids if _is_id(one)][:1]
    return [one for one in dict.fromkeys([eos, *several, *alone]) if _is_id(one)]


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def saved_ends(folder: Path, tokenizer: Any) -> list[int]:
    """Return the ids that end an answer of the student in ``folder``."""
    file = folder / "generation_config.json"
    declared = None
    if file.is_file():
        with damaged(StudentError, file, "restore it, or train again"):
            declared = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    return ends_among(tokenizer.eos_token_id, declared)


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts as ordinary text: no special token is added, none is recognised.

    Raises StudentError for a tokenizer that would recognise them (see `text_only`).
    """
    if not texts:
        return []
    backend = tokenizer.backend_tokenizer
    if not backend.encode_special_tokens:
        raise StudentError("this tokenizer takes special tokens in a text for more than text: load it with text_only")
    return [e.ids for e in backend.encode_batch_fast([" " + t for t in texts], add_special_tokens=False)]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of ``ids``: the inverse of `encode` for every text."""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.removeprefix(" ")
