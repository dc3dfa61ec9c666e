"""Answers in OpenAI's shapes, whole and in chunks, with udrl's own block."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from udrl import __version__
from udrl.serve.plan import Plan
from udrl.serve.writing import Done

LOWEST = -9999.0
"""The logarithm of what cannot come, as OpenAI writes it: JSON has no infinity."""
DONE = b"data: [DONE]\n\n"


class Shapes:
    """The shapes of one answer: its id, time and model are the same in every chunk."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.is_chat = plan.ask.endpoint == "chat"
        student = plan.student
        self.head = {
            "id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": "chat.completion" if self.is_chat else "text_completion",
            "created": int(time.time()),
            "model": plan.ask.model,
            "system_fingerprint": f"udrl-{__version__}-{student.engine}-{student.precision}",
        }

    def whole(self, done: Sequence[Done]) -> dict[str, Any]:
        """Return the answer of all choices; its block is that of the first, and each choice has its own."""
        choices = [
            {**self._choice(index, one.answer.completion), "logprobs": self._logprobs(one),
             "finish_reason": one.answer.finish_reason, "udrl": self.block(one)}
            for index, one in enumerate(done)
        ]  # fmt: skip
        return {**self.head, "choices": choices, "usage": self.usage(done), "udrl": choices[0]["udrl"]}

    def _choice(self, index: int, text: str) -> dict[str, Any]:
        if not self.is_chat:
            return {"index": index, "text": text}
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message}

    def _logprobs(self, one: Done) -> dict[str, Any] | None:
        """Return the chances of a choice's ids, as OpenAI's two addresses tell of them."""
        if self.plan.ask.likeliest is None:
            return None
        told = [(self._token(token, chances.drawn), chances) for token, chances in one.chances]
        likeliest = [[self._token(*other) for other in chances.likeliest] for _, chances in told]
        if self.is_chat:
            content = [{**own, "top_logprobs": others} for (own, _), others in zip(told, likeliest, strict=True)]
            return {"content": content, "refusal": None}
        texts = [own["token"] for own, _ in told]
        shown = [text.removeprefix(" ") if place == 0 else text for place, text in enumerate(texts)]
        starts = list(accumulate(map(len, shown), initial=0))[: len(shown)]
        return {
            "tokens": texts,
            "token_logprobs": [own["logprob"] for own, _ in told],
            "top_logprobs": [{other["token"]: other["logprob"] for other in others} for others in likeliest],
            "text_offset": starts,
        }

    def _token(self, token: int, logarithm: float) -> dict[str, Any]:
        """Return an id as OpenAI tells of it; the end has the name of its token."""
        student = self.plan.student
        piece = student.vocabulary.pieces[token]
        if token in student.ends:
            piece = str(student.tokenizer.convert_ids_to_tokens([token])[0]).encode()
        return {"token": token_name(piece), "bytes": list(piece), "logprob": max(logarithm, LOWEST)}

    def usage(self, done: Sequence[Done]) -> dict[str, int]:
        """Return how many ids were read and written, candidates included."""
        read, written = self.plan.prompt_tokens, sum(one.tokens for one in done)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def block(self, one: Done) -> dict[str, Any]:
        """Return what udrl says of a choice."""
        answer = one.answer
        return {
            "task": answer.task,
            "command": dict(answer.command),
            "clamped": {name: asdict(clamped) for name, clamped in answer.clamped.items()},
            "reachable": self.plan.served.reachable(one.slot.command),
            "achieved": None if answer.achieved is None else dict(answer.achieved),
            "unmet": list(answer.unmet),
            "ignored": list(self.plan.ask.ignored),
            "cut": one.slot.is_cut,
            "seed": answer.seed,
            "drawn": answer.drawn,
            "chosen": answer.chosen,
            "engine": answer.engine,
            "precision": answer.precision,
            "together": answer.together,
        }

    # -- chunks --------------------------------------------------------------------------------------------------------

    def begun(self, choice: int) -> bytes:
        """Return the chunk that begins a choice, which only chats have."""
        return self._chunk(choice, {"role": "assistant", "content": ""}) if self.is_chat else b""

    def part(self, choice: int, text: str) -> bytes:
        """Return the chunk of more text."""
        return self._chunk(choice, {"content": text}, text)

    def ended(self, one: Done) -> bytes:
        """Return the chunks that end a choice: the rest of its text, and why it ended, with udrl's block."""
        rest = self.part(one.choice, one.rest) if one.rest else b""
        return rest + self._chunk(one.choice, {}, "", reason=one.answer.finish_reason, udrl=self.block(one))

    def used(self, done: Sequence[Done]) -> bytes:
        """Return the chunk of the usage."""
        return event({**self._chunk_head(), "choices": [], "usage": self.usage(done)})

    def _chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"} if self.is_chat else self.head

    def _chunk(
        self, choice: int, delta: dict[str, Any], text: str = "", *, reason: str | None = None, **more: Any
    ) -> bytes:
        said = {"delta": delta} if self.is_chat else {"text": text}
        usage = {"usage": None} if self.plan.ask.include_usage else {}
        one = {"index": choice, **said, "logprobs": None, "finish_reason": reason}
        return event({**self._chunk_head(), "choices": [one], **usage, **more})


def token_name(piece: bytes) -> str:
    """Return the text of an id; of part of a character its bytes, as OpenAI writes them (``bytes:\\xf0\\x9f``)."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def as_json(data: Any) -> bytes:
    """Return ``data`` as the bytes of JSON."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


def event(data: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + as_json(data) + b"\n\n"
