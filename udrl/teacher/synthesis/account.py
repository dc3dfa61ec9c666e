"""What a run's synthesis has cost: tokens and money from its ledgers, time and GPU-hours from its starts.

Tokens and money are sums over the ledgers, so that no kill can lose them. Time is what the starts measured and
recorded, every half a minute and at their end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from udrl.data.facts import CostFacts, TeacherCost, TokenFacts
from udrl.data.survey import Usage
from udrl.teacher.cards import Prices
from udrl.teacher.protocol import Reply, Teacher
from udrl.teacher.synthesis.budget import Pace, Tokens, cost


@dataclass
class Tally:
    """What one start got. kinds: failures by kind; error: the first one."""

    written: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    error: str = ""

    def add(self, reply: Reply) -> None:
        """Count one reply."""
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0
        if reply.error is None:
            self.written += 1
        else:
            self.failed += 1
            self.kinds[reply.error.partition(":")[0]] += 1
            self.error = self.error or reply.error


class Account:
    """What all starts of a run's synthesis cost together, by teacher.

    usage: of completions, inventing: of requests for inputs, by teacher and task; both grow with every reply.
    prices, seconds, gpu_seconds: by teacher, the latter two of this start.
    """

    def __init__(
        self,
        recorded: CostFacts,
        *,
        prices: Mapping[str, Prices | None],
        usage: Mapping[tuple[str, str], Usage],
        inventing: Mapping[tuple[str, str], Usage],
    ) -> None:
        """recorded: what ``facts`` returned in the last start; of no start in the first one."""
        self._recorded = recorded
        self.prices = prices
        self.usage = dict(usage)
        self.inventing = dict(inventing)
        self.seconds: Counter[str] = Counter()
        self.gpu_seconds: Counter[str] = Counter()

    def worked(self, writer: Teacher, seconds: float) -> None:
        """Count time in which ``writer`` was at work."""
        self.seconds[writer.name] += seconds  # type: ignore[assignment]
        self.gpu_seconds[writer.name] += seconds * writer.gpus  # type: ignore[assignment]

    def gpu_usd(self) -> float:
        """Return what the GPU-hours of this start cost."""
        hours = {name: seconds / 3600 for name, seconds in self.gpu_seconds.items()}
        return sum(prices.gpu_hour * hours.get(name, 0.0) for name, prices in self.prices.items() if prices is not None)

    def pace(self) -> dict[str, Pace]:
        """Return how fast teachers wrote in earlier starts, by name."""
        return {
            name: Pace(part.responses / part.seconds, 3600 * part.gpu_hours / part.seconds)
            for name, part in self._recorded.teachers.items()
            if part.seconds > 1 and part.responses
        }

    def facts(self) -> CostFacts:
        """Return the sums for run.json; usd is None where no teacher's prices are known."""
        earlier = self._recorded.teachers
        names = dict.fromkeys([*earlier, *self.prices, *(name for name, _ in (*self.usage, *self.inventing))])
        teachers = {name: self._teacher(name, earlier.get(name, TeacherCost())) for name in names}
        parts = teachers.values()
        paid = [part.usd for part in parts if part.usd is not None]
        return CostFacts(
            starts=self._recorded.starts + 1,
            tokens=TokenFacts(sum(part.tokens.prompt for part in parts), sum(part.tokens.completion for part in parts)),
            seconds=round(sum(part.seconds for part in parts), 3),
            gpu_hours=round(sum(part.gpu_hours for part in parts), 6),
            usd=round(sum(paid), 6) if paid else None,
            teachers=teachers,
        )

    def _teacher(self, name: str, earlier: TeacherCost) -> TeacherCost:
        parts = [part for table in (self.usage, self.inventing) for (who, _), part in table.items() if who == name]
        prompt, completion = sum(part.prompt_tokens for part in parts), sum(part.completion_tokens for part in parts)
        gpu_hours = earlier.gpu_hours + self.gpu_seconds[name] / 3600
        prices = self.prices.get(name)
        usd = cost(prices, Tokens(prompt, completion)) if name in self.prices else earlier.usd
        if prices is not None and usd is not None:
            usd += prices.gpu_hour * gpu_hours
        return TeacherCost(
            responses=sum(part.good for part in parts),
            failed=sum(part.failed for part in parts),
            tokens=TokenFacts(prompt, completion),
            seconds=round(earlier.seconds + self.seconds[name], 3),
            gpu_hours=round(gpu_hours, 6),
            usd=None if usd is None else round(usd, 6),
        )
