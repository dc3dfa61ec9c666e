"""Any causal language model of transformers as a teacher, on CPU or GPU.

Requests are taken a window at a time, put into batches of like length and padded on the left, with positions that
count from each prompt's first token. Every request draws from its own stream of random numbers, one a token, so
that what it gets does not depend on its batch: exactly so for greedy decoding in float32 (sampling follows logits
that differ in their last bits).
"""

from __future__ import annotations

import inspect
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

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
_COMPACT = 0.5
_STOP_TAIL = 12


@dataclass
class _Row:
    """One request while it is written."""

    request: Request
    prompt: list[int]
    limit: int
    stream: random.Random
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
        self._arguments: frozenset[str] = frozenset()

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
        """Yield one reply for every request, batch by batch.

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
            for start in range(0, len(rows), self._batch_size):
                yield from self._batch(rows[start : start + self._batch_size])

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
        # Models that know positions by other means (ALiBi) take no position_ids.
        self._arguments = frozenset(inspect.signature(network.forward).parameters)
        self._tokenizer = tokenizer
        self._ends = self._end_tokens()

    def _end_tokens(self) -> frozenset[int]:
        """Return what ends a completion: the model's own end tokens, and the card's stops that are one token."""
        ends: set[int] = set()
        for found in (self._network.generation_config.eos_token_id, self._tokenizer.eos_token_id):
            ends.update(found if isinstance(found, list | tuple) else [] if found is None else [found])
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
        from udrl.architecture.any import declared_context

        arguments = self._card.chat.template_arguments
        try:
            ids = conversation_ids(self._tokenizer, self._turns(request.messages), arguments)
        except TemplateError as error:
            raise TeacherError(f"teacher '{self.name}': {error}") from error
        room = declared_context(self._network.config) or 1 << 30
        limit = min(int(request.sampling.get("max_tokens", 256)), room - len(ids))
        if not ids or limit < 1:
            refusal = f"prompt: has {len(ids)} tokens, of {room} that the model reads"
            return Reply(request.key, None, None, len(ids), None, time.time(), 0.0, error=refusal)
        return _Row(request, ids, limit, random.Random(request.seed))

    def _batch(self, rows: list[_Row]) -> Iterator[Reply]:
        import torch

        started, clock = time.time(), time.monotonic()
        try:
            with torch.inference_mode():
                self._write(rows)
        except torch.OutOfMemoryError:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(rows) > 1:
                half = len(rows) // 2
                for part in (rows[:half], rows[half:]):
                    yield from self._batch(
                        [_Row(r.request, r.prompt, r.limit, random.Random(r.request.seed)) for r in part]
                    )
                return
            error = f"memory: {len(rows[0].prompt)} tokens do not fit into the memory of {self._network.device}"
            yield self._reply(rows[0], started, time.monotonic() - clock, error)
            return
        seconds = (time.monotonic() - clock) / len(rows)
        for row in rows:
            yield self._reply(row, started, seconds, None)

    def _reply(self, row: _Row, started: float, seconds: float, error: str | None) -> Reply:
        text: str = self._tokenizer.decode(row.ids, skip_special_tokens=True)
        for stop in self._card.chat.stop:
            text = text.partition(stop)[0]
        found = completion_of(text, row.finish_reason, strip_thinking=self._card.chat.strip_thinking)
        if error is None and isinstance(found, Failure):
            error = str(found)
        return Reply(
            key=row.request.key,
            completion=None if error else str(found),
            finish_reason=None if error else row.finish_reason,
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.ids),
            started=started,
            seconds=round(seconds, 4),
            error=error,
        )

    def _write(self, rows: list[_Row]) -> None:
        """Continue every row until its end."""
        import torch

        device = self._network.device
        width = max(len(row.prompt) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for n, row in enumerate(rows):
            ids[n, width - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[n, width - len(row.prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        active, cache = list(rows), None
        while active:
            optional = {"position_ids": positions, "logits_to_keep": 1}
            output = self._network(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **{name: value for name, value in optional.items() if name in self._arguments},
            )
            cache = output.past_key_values
            drawn = _draw(output.logits[:, -1].float(), active)
            for row, token in zip(active, drawn, strict=True):
                if row.finish_reason is None:
                    self._add(row, token)
            left = [n for n, row in enumerate(active) if row.finish_reason is None]
            if not left:
                return
            step = torch.tensor(drawn, device=device)[:, None]
            positions = positions[:, -1:] + 1
            if len(left) <= _COMPACT * len(active):
                keep = torch.tensor(left, device=device)
                cache.batch_select_indices(keep)
                step, positions, mask = step[keep], positions[keep], mask[keep]
                active = [active[n] for n in left]
            ids, mask = step, torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)

    def _add(self, row: _Row, token: int) -> None:
        if token in self._ends:
            row.finish_reason = "stop"
            return
        row.ids.append(token)
        if self._card.chat.stop:
            tail = self._tokenizer.decode(row.ids[-_STOP_TAIL:], skip_special_tokens=False)
            if any(stop in tail for stop in self._card.chat.stop):
                row.finish_reason = "stop"
                return
        if len(row.ids) >= row.limit:
            row.finish_reason = "length"


def _draw(logits: Any, rows: Sequence[_Row]) -> list[int]:
    """Return the next token of each row; logits: (rows, vocabulary) in float32.

    The token is where the row's next random number falls in the cumulated probabilities, the likeliest first; it is
    drawn at every step, kept or not, so that a row's stream depends on nothing but its own length.
    """
    import torch

    def setting(name: str, default: float) -> Any:
        values = [float(row.request.sampling.get(name, default)) for row in rows]
        return torch.tensor(values, device=logits.device)[:, None]

    numbers = torch.tensor([row.stream.random() for row in rows], device=logits.device, dtype=torch.float64)
    temperature = setting("temperature", 1.0)
    greedy = temperature[:, 0] == 0
    if bool(greedy.all()):
        best: list[int] = logits.argmax(-1).tolist()
        return best
    scaled = logits / torch.where(temperature == 0, 1.0, temperature)
    chances, order = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = chances.cumsum(-1) - chances
    top_k = setting("top_k", 0)
    rank = torch.arange(logits.shape[-1], device=logits.device)[None, :]
    keep = (before < setting("top_p", 1.0)) & ((top_k <= 0) | (rank < top_k))
    keep &= chances >= setting("min_p", 0.0) * chances[:, :1]
    keep[:, 0] = True  # the likeliest always stays
    sums = (chances.double() * keep).cumsum(-1)
    place = torch.searchsorted(sums, numbers[:, None] * sums[:, -1:], right=True)
    place = torch.minimum(place[:, 0], keep.sum(-1) - 1)  # the kept ones are the first
    sampled = order.gather(1, place[:, None])[:, 0]
    found: list[int] = torch.where(greedy, logits.argmax(-1), sampled).tolist()
    return found
