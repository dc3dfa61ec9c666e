"""What a synthesis costs: what is to be expected before it begins, and limits at which it stops.

Tokens are counted as the backend reports them. Before there are such counts, a prompt's are estimated from its bytes
and a completion's from the task's length bounds; later the averages of the same teacher and task are taken.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from udrl.data.survey import Usage
from udrl.data.tasks import Task
from udrl.errors import UsageError
from udrl.teacher.cards import Card, Prices
from udrl.teacher.protocol import Reply, Request
from udrl.teacher.synthesis.plan import Outlook

ENOUGH = 20
"""Responses with token counts from which averages are taken instead of estimates."""

TOKENS_PER_WORD = 1.4
"""Measured: 1.36 on recorded outputs of LLMs, with the tokenizer of all-MiniLM-L6-v2."""

_BYTES_PER_TOKEN = 4.0
_TOKENS_PER_MESSAGE = 8.0
_SHARE_OF_MOST = 1 / 3


class Tokens(NamedTuple):
    """Tokens of one or many requests."""

    prompt: float
    completion: float


class Pace(NamedTuple):
    """How fast a teacher wrote in earlier starts: responses a second, on so many GPUs of this machine."""

    responses: float
    gpus: float


@dataclass(frozen=True)
class Limits:
    """What one start may cost at most; None: no limit. usd: US dollars at the card's prices."""

    tokens: int | None = None
    usd: float | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What is left for one teacher. Produced by ``estimates``, shown before the first request.

    most_completion_tokens: if every completion were cut at its longest. seconds: at the pace of earlier starts, None
    where there was none. usd: at the card's prices, None where it states none, or one for GPU-hours while the pace is
    not known. measured: the tokens rest on what
    this teacher wrote before, for every task that is left.
    """

    teacher: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    most_completion_tokens: int
    seconds: float | None
    usd: float | None
    measured: bool


def check_limits(limits: Limits, given: Sequence[Card]) -> None:
    """Raise UsageError for a limit on money where a card states no prices."""
    if limits.usd is None:
        return
    for card in given:
        prices = card.prices
        if prices is None or prices.prompt + prices.completion + prices.gpu_hour == 0:
            raise UsageError(
                f"max_usd cannot hold, because {card.path} states no prices above 0: write what the endpoint or the "
                "machine costs under 'prices' in a copy of the card (udrl init), or leave the limit out"
            )


def cost(prices: Prices | None, tokens: Tokens) -> float | None:
    """Return the US dollars that ``tokens`` cost, or None where there are no prices."""
    if prices is None:
        return None
    return (prices.prompt * tokens.prompt + prices.completion * tokens.completion) / 1e6


def expected(request: Request, task: Task | None, usage: Usage | None) -> Tokens:
    """Return the tokens that ``request`` will probably take.

    task: whose bounds the completion's length has, None where it is no completion of a task's. usage: what the same
    teacher's responses to it took so far.
    """
    if usage is not None and usage.counted >= ENOUGH:
        return Tokens(usage.prompt_tokens / usage.counted, usage.completion_tokens / usage.counted)
    prompt = sum(
        _TOKENS_PER_MESSAGE + len(message["content"].encode("utf-8", "replace")) / _BYTES_PER_TOKEN
        for message in request.messages
    )
    most = float(request.sampling.get("max_tokens", 0))
    if task is None:
        return Tokens(prompt, most * _SHARE_OF_MOST)
    words = (task.min_words + task.max_words) / 2
    return Tokens(prompt, min(TOKENS_PER_WORD * words, most or float("inf")))


def estimates(
    outlook: Outlook,
    *,
    prices: Mapping[str, Prices | None],
    usage: Mapping[tuple[str, str], Usage],
    pace: Mapping[str, Pace],
) -> tuple[Estimate, ...]:
    """Return what is left for each teacher that has something left, in the order of ``prices``.

    prices: by teacher; usage: by teacher and task; pace: by teacher, where known.
    """
    estimates = []
    for teacher, asks in prices.items():
        parts = [(task, part) for (name, task), part in outlook.parts.items() if name == teacher]
        requests = sum(part.requests for _, part in parts)
        if not requests:
            continue
        prompt = completion = most = 0.0
        measured = True
        for task, part in parts:
            known = usage.get((teacher, task))
            measured = measured and known is not None and known.counted >= ENOUGH
            scale = part.requests / max(1, len(part.examples))
            for request in part.examples:
                tokens = expected(request, part.task, known)
                prompt += scale * tokens.prompt
                completion += scale * tokens.completion
                most += scale * max(tokens.completion, float(request.sampling.get("max_tokens", 0)))
        speed = pace.get(teacher)
        seconds = None if speed is None else requests / speed.responses
        usd = cost(asks, Tokens(prompt, completion))
        if asks is not None and usd is not None and asks.gpu_hour:
            usd = None if speed is None or seconds is None else usd + asks.gpu_hour * speed.gpus * seconds / 3600
        estimates.append(
            Estimate(
                teacher=teacher,
                requests=requests,
                prompt_tokens=round(prompt),
                completion_tokens=round(completion),
                most_completion_tokens=round(most),
                seconds=seconds,
                usd=usd,
                measured=measured,
            )
        )
    return tuple(estimates)


class Budget:
    """What one start may still cost.

    What is in flight counts with what is expected of it, so that a start ends within about one request of its limit,
    instead of overshooting it by everything that is in flight.
    """

    def __init__(self, limits: Limits = Limits(), *, started: float | None = None) -> None:
        """started: ``time.monotonic`` of the start."""
        self._limits = limits
        self._started = time.monotonic() if started is None else started
        self._tokens = 0.0
        self._usd = 0.0
        self._flying: dict[str, tuple[Tokens, float]] = {}

    def allows(self, request: Request, tokens: Tokens, prices: Prices | None, *, gpu_usd: float = 0.0) -> str | None:
        """Reserve what ``request`` is expected to take; or return the limit that it would pass.

        gpu_usd: what this start's GPU-hours cost so far.
        """
        limits, usd = self._limits, cost(prices, tokens) or 0.0
        reserved = sum(tokens) + self._tokens
        if limits.tokens is not None and reserved > limits.tokens:
            return f"--max-tokens {limits.tokens:,}"
        if limits.usd is not None and self._usd + usd + gpu_usd > limits.usd:
            return f"--max-usd {limits.usd:g}"
        if limits.minutes is not None and time.monotonic() - self._started >= 60 * limits.minutes:
            return f"--max-minutes {limits.minutes:g}"
        self._tokens, self._usd = reserved, self._usd + usd
        self._flying[request.key] = tokens, usd
        return None

    def settle(self, reply: Reply, prices: Prices | None) -> None:
        """Put what ``reply`` took in the place of what was expected; of a completion without counts that stays."""
        tokens, usd = self._flying.pop(reply.key)
        if reply.error is None and (reply.prompt_tokens is None or reply.completion_tokens is None):
            return
        # A failure without counts gives all back: hosts bill what they answered, and mostly nothing came to an answer.
        took = Tokens(reply.prompt_tokens or 0, reply.completion_tokens or 0)
        self._tokens += sum(took) - sum(tokens)
        self._usd += (cost(prices, took) or 0.0) - usd
