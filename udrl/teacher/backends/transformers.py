"""Any causal language model of transformers as a teacher, on CPU or GPU.

Requests are taken a window at a time, the longest first, and written by the loop of the students: a batch's worth at
once, where each that ends gives its place to the next. Every request draws from its own stream of random numbers, so
that what it gets does not depend on its batch: exactly so for greedy decoding in float32 (sampling follows logits that
differ in their last bits).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from udrl.decoding import requests as decoding
from udrl.decoding.engine import Array, Session
from udrl.decoding.loop import Decoder
from udrl.decoding.sampling import EVERY, Sampling
from udrl.errors import TeacherError
from udrl.hardware import choose_device, choose_precision
from udrl.teacher import mixes
from udrl.teacher.backends.completion import Failure, completion_of
from udrl.teacher.backends.conversation import TemplateError, conversation_ids, conversation_text
from udrl.teacher.backends.own_weights import OwnWeights
from udrl.teacher.cards import Card, backend_settings
from udrl.teacher.protocol import Reply, Request
from udrl.weights.gguf_checkpoint import check_finite

SETTINGS: Mapping[str, Any] = {
    "batch_size": 16,
    "device": "auto",
    "precision": "auto",
}
"""What a card may set under ``settings: transformers``. device: auto (a GPU where there is one), or torch's name for
one. precision: auto (bfloat16 where the hardware multiplies it itself, else float32), float32 or bfloat16."""

WINDOW = 8
"""Batches that are put in order of length at a time; also how many requests may be lost to a kill, over batch_size."""

_SUPPORTED = ("temperature", "top_p", "top_k", "min_p")
_STOP_TAIL = 12


@dataclass
class _Row:
    """One request while it is written."""

    request: Request
    prompt: list[int]
    limit: int
    ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None


class TransformersTeacher:
    """The model of ``card``, loaded at the first request; safetensors only, and no code of the hub's is run."""

    def __init__(self, card: Card) -> None:
        """Check the settings; raises TaskError for those that do not exist."""
        self.name = card.name
        self.model = card.model
        self._weights = OwnWeights(card)
        self.revision = self._weights.revision
        settings = backend_settings(card, "transformers", SETTINGS)
        self._card = card
        self._batch_size = int(settings["batch_size"])
        self._device_name = str(settings["device"])
        self._precision = str(settings["precision"])
        if self._precision not in ("auto", "float32", "bfloat16"):
            raise TeacherError(
                f"{card.path}: precision must be auto, float32 or bfloat16, found {self._precision!r}: correct the card"
            )
        self.engine_arguments: Mapping[str, Any] = card.output_arguments
        self._network: Any = None
        self._tokenizer: Any = None
        self._ends: frozenset[int] = frozenset()
        self._room = 0

    @property
    def gpus(self) -> int:
        """One where the model is loaded on a GPU."""
        return int(self._network is not None and self._network.device.type == "cuda")

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the entries of the card's mix in turn."""
        return mixes.sampling(self._card.mix, index, min_words, max_words)

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the first entry of the card's mix."""
        return mixes.careful(self._card.mix, max_words)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for every request, as they end.

        A prompt that leaves no room for a token is a reply with an error of the kind ``prompt``; one request alone
        that the memory does not hold is one of the kind ``memory``. Raises TeacherError where the model cannot be
        loaded, its chat template does not take the conversation, or a setting is not supported here.
        """
        todo = iter(requests)
        while window := list(islice(todo, WINDOW * self._batch_size)):
            self._load()
            rows = []
            for request in window:
                row = self._row(request)
                if isinstance(row, Reply):
                    yield row
                else:
                    rows.append(row)
            # The longest first: what does not fit into the memory shows at once.
            rows.sort(key=lambda row: (len(row.prompt), row.limit), reverse=True)
            yield from self._written(rows)

    def close(self) -> None:
        """Release the model's memory."""
        self._network = self._tokenizer = None
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return a conversation as the model reads it: its chat template's, else the texts and nothing else."""
        self._load()
        return conversation_text(self._tokenizer, self._turns(messages), self._card.chat.template_arguments)

    def _turns(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        return mixes.merged_system(messages) if self._card.chat.merge_system else [dict(one) for one in messages]

    def _load(self) -> None:
        if self._network is not None:
            return
        import torch
        import transformers

        from udrl.architecture.any import declared_context

        device = choose_device(self._device_name)
        precision = self._precision
        if precision == "auto":
            precision = "bfloat16" if choose_precision("auto", device) == "bf16" else "float32"
        folder, options = self._weights.folder(), {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            network = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, precision), use_safetensors=True, **options
            )
            check_finite(network, self.model)
            self._network = network.to(device).eval()
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise TeacherError(
                f"teacher '{self.name}': {self.model} cannot be loaded ({first}): check the name, or give a local "
                "folder as 'model' in a copy of the card; for gated weights accept their licence on the hub and set "
                "HF_TOKEN"
            ) from error
        self._tokenizer = tokenizer
        self._room = declared_context(network.config) or 1 << 30
        self._ends = self._end_tokens()

    def _end_tokens(self) -> frozenset[int]:
        """Return what ends a completion: the model's own end tokens, and the card's stops that are one token."""
        ends: set[int] = set()
        for ids in (self._network.generation_config.eos_token_id, self._tokenizer.eos_token_id):
            ends.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
        vocabulary = self._tokenizer.get_vocab()
        ends.update(vocabulary[text] for text in self._card.chat.stop if text in vocabulary)
        return frozenset(ends)

    def _row(self, request: Request) -> _Row | Reply:
        unsupported = [name for name in request.sampling if name in mixes.RANGES and name not in _SUPPORTED]
        if unsupported:
            raise TeacherError(
                f"{self._card.path}: the backend 'transformers' has no {', '.join(unsupported)}: take it out of "
                "'sampling'"
            )
        arguments = self._card.chat.template_arguments
        try:
            ids = conversation_ids(self._tokenizer, self._turns(request.messages), arguments)
        except TemplateError as error:
            raise TeacherError(f"teacher '{self.name}': {error}") from error
        room = self._room
        limit = min(int(request.sampling.get("max_tokens", 256)), room - len(ids))
        if not ids or limit < 1:
            refusal = f"prompt: has {len(ids)} tokens, of {room} that the model reads"
            return Reply(request.key, None, None, len(ids), None, time.time(), 0.0, error=refusal)
        return _Row(request, ids, limit)

    def _written(self, rows: list[_Row]) -> Iterator[Reply]:
        """Continue every row until its end; what the memory does not hold at once is written by halves."""
        import torch

        started, clock, most = time.time(), time.monotonic(), self._batch_size
        while rows:
            try:
                for row in self._write(rows, most):
                    rows.remove(row)
                    now = time.monotonic()
                    yield self._reply(row, started, now - clock, None)
                    clock = now
            except torch.OutOfMemoryError:
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                for row in rows:
                    row.ids, row.finish_reason = [], None
                most = min(most, len(rows)) // 2
                if not most:
                    row = rows.pop(0)
                    error = f"memory: {len(row.prompt)} tokens do not fit into the memory of {self._network.device}"
                    yield self._reply(row, started, time.monotonic() - clock, error)
                    clock, most = time.monotonic(), self._batch_size

    def _reply(self, row: _Row, started: float, seconds: float, error: str | None) -> Reply:
        text: str = self._tokenizer.decode(row.ids, skip_special_tokens=True)
        for stop in self._card.chat.stop:
            text = text.partition(stop)[0]
        completion = completion_of(text, row.finish_reason, strip_thinking=self._card.chat.strip_thinking)
        if error is None and isinstance(completion, Failure):
            error = str(completion)
        return Reply(
            key=row.request.key,
            completion=None if error else str(completion),
            finish_reason=None if error else row.finish_reason,
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.ids),
            started=started,
            seconds=round(seconds, 4),
            error=error,
        )

    def _write(self, rows: Sequence[_Row], most: int) -> Iterator[_Row]:
        """Continue the rows, at most so many at once; yield each at its end."""
        decoder, written = Decoder(_Network(self._network, self._room), most), list(rows)
        ends = tuple(self._ends) or (-1,)
        for row in written:
            sampling = sampling_of(row.request.sampling)
            decoder.add(decoding.Request(row.prompt, row.request.seed % 2**63, sampling, row.limit, ends))
        while decoder:
            for step in decoder.step():
                row = written[step.handle]
                if step.token is not None:
                    row.ids.append(step.token)
                if self._stops(row):
                    row.finish_reason = "stop"
                    decoder.drop(step.handle)
                elif step.decoded is not None:
                    row.finish_reason = "stop" if step.decoded.stopped else "length"
                if row.finish_reason is not None:
                    yield row

    def _stops(self, row: _Row) -> bool:
        """Say whether a stop of the card stands at the end of what was written."""
        if not self._card.chat.stop:
            return False
        tail = self._tokenizer.decode(row.ids[-_STOP_TAIL:], skip_special_tokens=False)
        return any(stop in tail for stop in self._card.chat.stop)


@dataclass(frozen=True)
class _Network:
    """A causal language model of transformers as the loop sees it."""

    model: Any
    context: int

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        """Read the prompts; return their session and the logits (B, ids) behind each."""
        import torch

        from udrl.architecture.any import WholeCache
        from udrl.architecture.session import read_prompts

        size = self.model.config.get_text_config().vocab_size
        caches = partial(WholeCache, self.model, dtype=torch.float32, text_size=size)  # it computes in its own format
        return read_prompts(prompts, embed=lambda ids: ids, caches=caches, device=self.model.device)


def sampling_of(asked: Mapping[str, Any]) -> Sampling:
    """Return how a request's next token is drawn: of all tokens, but for what it ``asked`` to leave out."""
    return Sampling(
        temperature=float(asked.get("temperature", 1.0)),
        top_p=float(asked.get("top_p", 1.0)),
        top_k=max(0, int(asked.get("top_k", 0))) or EVERY,
        min_p=float(asked.get("min_p", 0.0)),
    )
