"""What is written for a plan becomes answers: as it comes, or whole, scored and picked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from udrl.data.inputs import normalise
from udrl.decoding.requests import Chances, Step
from udrl.decoding.streaming import TextUnderWay
from udrl.errors import UdrlError
from udrl.serve.batching import Line
from udrl.serve.plan import Plan, Slot
from udrl.serve.refusal import Refusal
from udrl.student.answers import Answer, Score, pick
from udrl.student.student import Generation
from udrl.words import count_words


@dataclass(frozen=True)
class Part:
    """More of the text of a choice. tokens: ids that were drawn for it so far."""

    choice: int
    text: str


@dataclass(frozen=True)
class Done:
    """A choice that has ended. rest: of its text, behind all parts; tokens: of all its candidates.

    chances: of its ids, where they are asked for.
    """

    choice: int
    slot: Slot
    answer: Answer
    rest: str
    tokens: int
    chances: Sequence[tuple[int, Chances]]


class Writing:
    """One plan while it is written. It takes its place in the queue when it is made: that may raise Refusal."""

    def __init__(self, plan: Plan, scoring: ThreadPoolExecutor) -> None:
        """scoring: the thread in which rewards are computed."""
        self.plan, self.scoring = plan, scoring
        ask = plan.ask
        by_token = ask.stream or bool(ask.stop) or ask.likeliest is not None
        self.job = plan.served.worker.submit(plan.requests, by_token=by_token)
        self.texts = [TextUnderWay(plan.student.tokenizer, ask.stop) for _ in plan.requests]
        self.written: dict[int, Generation] = {}
        self.chances: list[list[tuple[int, Chances]]] = [[] for _ in plan.requests]

    async def events(self) -> AsyncGenerator[Part | Done]:
        """Yield parts, if the plan asks for a stream, and every choice when it has ended; leaves nothing under way."""
        drawn = self.plan.ask.drawn
        try:
            async for line, step in self.job.steps():
                choice = line.index // drawn
                part = self._take(line, step)
                if part and self.plan.ask.stream:
                    yield Part(choice, part)
                slot = self.plan.slots[choice]
                rows = range(slot.first, slot.first + drawn)
                if line.index in self.written and all(row in self.written for row in rows):
                    answer = await self._answer(slot, [self.written[row] for row in rows])
                    rest = self.texts[slot.first].rest(answer.completion)
                    tokens = sum(self.written[row].tokens for row in rows)
                    yield Done(choice, slot, answer, rest, tokens, self.chances[slot.first + answer.chosen])
        finally:
            self.job.drop()

    async def answers(self) -> list[Done]:
        """Return all choices, in their order."""
        done = {event.choice: event async for event in self.events() if isinstance(event, Done)}
        return [done[choice] for choice in range(len(self.plan.slots))]

    def _take(self, line: Line, step: Step) -> str:
        """Take what was told of a line; return what of its text can be shown."""
        text = self.texts[line.index]
        if step.token is not None and step.chances is not None:
            self.chances[line.index].append((step.token, step.chances))
        part = text.add(step.token) if step.token is not None else ""
        if text.stopped:
            self.job.drop(line)
            ended = text.until_stop(self.plan.student.decoded(text.ids))
            unmet = self.plan.wording.unmet(ended)
            self._end(line, Generation(ended, "stop", len(text.ids), unmet))
        elif step.decoded is not None:
            self._end(line, self.plan.student.generation(step.decoded, self.plan.wording))
        return part

    def _end(self, line: Line, one: Generation) -> None:
        clamped = self.plan.slots[line.index // self.plan.ask.drawn].clamped
        self.written[line.index] = replace(one, clamped=clamped, together=line.together)

    async def _answer(self, slot: Slot, written: list[Generation]) -> Answer:
        ask = self.plan.ask

        def picked(rewards: Mapping[str, Score] | None) -> Answer:
            [answer] = pick(
                self.plan.student,
                slot.command,
                [slot.input] * len(written),
                written,
                seeds=slot.seeds,
                drawn=ask.drawn,
                by_distance=ask.closest_of > 1,
                rewards=rewards,
                warn=False,
            )
            return answer

        if not ask.score and ask.drawn == 1:
            return replace(picked(None), achieved={"length": float(count_words(written[0].completion))})
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.scoring, lambda: picked(self.plan.served.scored_by())
            )
        except UdrlError as error:
            raise Refusal(f"what was written cannot be scored: {error}", param="score", code="not_scored") from None


def without_repetitions(done: list[Done]) -> list[Done]:
    """Leave out choices for the same input whose text an earlier one has already."""
    first: dict[tuple[str, str], Done] = {}
    for one in done:
        first.setdefault((one.slot.input, normalise(one.answer.completion)), one)
    return list(first.values())
