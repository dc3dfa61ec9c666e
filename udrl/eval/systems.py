"""The systems that a benchmark compares, baselines apart: each function returns one block of completions.

In this version: a student under three kinds of command (``@matched``, ``@top``, ``@open``), and teachers
under their careful setting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from udrl.commands import LENGTH, Command, CommandSpace
from udrl.data.hashing import hash_int
from udrl.data.ledger import Ledger, LedgerRecord, request_key
from udrl.eval.completions import Block, Completion, Kind, SystemFacts
from udrl.eval.suites import Item
from udrl.progress import Bar
from udrl.teacher.protocol import Reply, Request, Teacher
from udrl.teacher.synthesis.request_loop import ledger_record
from udrl.words import whole_characters

if TYPE_CHECKING:
    from udrl.data.tasks import Task
    from udrl.teacher.cards import Prices

Targets = Mapping[str, Mapping[str, float]]
"""Task -> attribute -> the value commanded (no attribute: nothing)."""
RELEVANCE = "relevance"
BATCH_SIZE = 128
"""Completions that a student writes together."""
CHUNK = 2048
"""Completions asked of a student in one call: large enough to fill batches of like lengths, and shows
progress.
"""


class WrittenText(Protocol):
    """One completion as a student returns it."""

    @property
    def completion(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def tokens(self) -> int: ...


class CommandedStudent(Protocol):
    """What a benchmark needs of a student; `udrl.student.load` returns one."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    @property
    def engine(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def space(self) -> CommandSpace: ...

    def generate(
        self,
        inputs: Sequence[str],
        commands: Sequence[Command],
        *,
        seeds: Sequence[int],
        calibrated: bool = True,
        batch_size: int = ...,
        warn: bool = True,
    ) -> Sequence[WrittenText]: ...

    def reachable(self, task: str, attribute: str, *, length: float | None = None) -> tuple[float, float]: ...


def attribute_names(student: CommandedStudent) -> tuple[str, ...]:
    """Return the names of the attributes that ``student`` can be commanded in."""
    return tuple(attribute.name for attribute in student.space.attributes)


def is_calibrated(student: CommandedStudent) -> bool:
    """Say whether targets are turned into the commands that achieve them."""
    return getattr(student, "calibration", None) is not None


# -- students -------------------------------------------------------------------------------------------


def open_targets(tasks: Sequence[str]) -> Targets:
    """Command nothing: what the student writes of its own accord."""
    return {task: {} for task in tasks}


def top_targets(student: CommandedStudent, tasks: Sequence[str]) -> Targets:
    """Command the highest relevance that the student reaches in each task, length open."""
    if RELEVANCE not in attribute_names(student):
        return {}
    return {task: {RELEVANCE: student.reachable(task, RELEVANCE)[1]} for task in tasks}


def student_block(
    student: CommandedStudent,
    items: Sequence[Item],
    targets: Targets,
    *,
    name: str,
    key: str,
    samples: int,
    seed: int,
    latency_requests: int,
    bar: Bar | None = None,
) -> Block:
    """Let ``student`` write ``samples`` completions for every item under its task's ``targets``, and time
    it.
    """
    wanted = [
        wish(name, name, item, sample, seed, targets=targets[item.task]) for item in items for sample in range(samples)
    ]
    started = time.perf_counter()
    rows = answer(student, wanted, bar=bar)
    seconds = time.perf_counter() - started

    def once(row: Completion) -> None:
        student.generate([row.input], [Command(row.task, row.targets)], seeds=[row.seed])

    facts = SystemFacts(
        name=name,
        kind="student",
        student=name.partition("@")[0],
        batch_size=min(BATCH_SIZE, len(wanted)),
        parameters=student.parameters,
        engine=student.engine,
        precision=student.precision,
        latency_ms=time_requests(once, wanted[::samples], latency_requests),
        tokens_per_second=sum(row.tokens or 0 for row in rows) / seconds,
    )
    return Block(name, key, facts, tuple(rows))


def wish(
    block: str,
    system: str,
    item: Item,
    sample: int,
    seed: int,
    *,
    part: str = "comparison",
    attribute: str | None = None,
    level: int | None = None,
    targets: Mapping[str, float] | None = None,
) -> Completion:
    """Return the record of a completion that is still to be written; every one has a random stream of its
    own.
    """
    return Completion(
        block=block,
        system=system,
        part=part,  # type: ignore[arg-type]
        task=item.task,
        input_id=item.input_id,
        input=item.input,
        sample=sample,
        seed=hash_int("bench", seed, block, item.task, item.input_id, sample, level, bits=31),
        completion=None,
        attribute=attribute,
        level=level,
        targets=dict(targets or {}),
    )


def answer(
    student: CommandedStudent, wanted: Sequence[Completion], *, calibrated: bool = True, bar: Bar | None = None
) -> list[Completion]:
    """Let ``student`` write what is ``wanted``, in few large calls; keeps the order.

    calibrated: whether a target is turned into the command that achieves it, or commanded as it stands.
    """

    def size(i: int) -> tuple[float, int]:
        return wanted[i].targets.get(LENGTH, 0.0), len(wanted[i].input)

    order = sorted(range(len(wanted)), key=size)  # a batch takes as long as its longest member
    done: list[Completion] = list(wanted)
    for start in range(0, len(order), CHUNK):
        part = order[start : start + CHUNK]
        # A sweep asks for more than is reachable on purpose; the report draws what is.
        commands = [Command(wanted[i].task, wanted[i].targets) for i in part]
        written = student.generate(
            [wanted[i].input for i in part],
            commands,
            seeds=[wanted[i].seed for i in part],
            calibrated=calibrated,
            batch_size=BATCH_SIZE,
            warn=False,
        )
        for i, generation in zip(part, written, strict=True):
            done[i] = replace(
                wanted[i],
                completion=generation.completion,
                finish_reason=generation.finish_reason,
                tokens=generation.tokens,
            )
        if bar is not None:
            bar.update(len(part))
    return done


# -- teachers -------------------------------------------------------------------------------------------


def teacher_block(
    teacher: Teacher,
    tasks: Mapping[str, Task],
    items: Sequence[Item],
    *,
    name: str,
    kind: Kind,
    key: str,
    samples: int,
    seed: int,
    latency_requests: int,
    prices: Prices | None = None,
    ledger: Ledger | None = None,
    bar: Bar | None = None,
) -> Block:
    """Let ``teacher`` write ``samples`` completions for every item under its careful setting.

    What the teacher fails at becomes a record with its error; it is counted, never scored and never replaced.
    ledger: holds what was answered before, which is not asked for again, and gets every reply as it comes.
    Speed and cost are those of what is asked for now.
    """
    wanted = [wish(name, name, item, sample, seed) for item in items for sample in range(samples)]
    asked = [_request(teacher, row, tasks[row.task]) for row in wanted]
    requests = {one.key: one for one in asked}
    written = {one.key: one for one in ledger or () if one.status == "ok" and one.key in requests}
    replies: dict[str, Reply] = {}
    if bar is not None:
        bar.update(len(written))
    started = time.perf_counter()
    for reply in teacher.generate(one for key, one in requests.items() if key not in written):
        replies[reply.key] = reply
        if ledger is not None:
            ledger.append(ledger_record(requests[reply.key], reply, teacher))
        if bar is not None:
            bar.update(1)
    seconds = time.perf_counter() - started
    rows = [_replied(row, written.get(one.key) or replies.get(one.key)) for row, one in zip(wanted, asked, strict=True)]

    def once(row: Completion) -> None:
        for _ in teacher.generate([_request(teacher, row, tasks[row.task])]):
            pass

    counted = all(reply.completion_tokens is not None for reply in replies.values())
    facts = SystemFacts(
        name=name,
        kind=kind,
        engine=teacher.model,
        latency_ms=time_requests(once, wanted[::samples], latency_requests),
        tokens_per_second=sum(reply.completion_tokens or 0 for reply in replies.values()) / seconds
        if counted and replies
        else None,
        cost=_cost(prices, list(replies.values()), gpu_hours=teacher.gpus * seconds / 3600),
    )
    return Block(name, key, facts, tuple(rows))


def _request(teacher: Teacher, row: Completion, task: Task) -> Request:
    """Return what ``teacher`` is asked for ``row``, under its careful setting."""
    messages = ({"role": "user", "content": task.request(row.input)},)
    sampling = teacher.careful(task.min_words, task.max_words)
    key = request_key(
        model=teacher.model,
        revision=teacher.revision,
        engine_arguments=teacher.engine_arguments,
        messages=messages,
        sampling=sampling,
        seed=row.seed,
    )
    return Request(key, row.task, row.input_id, row.input, messages, sampling, row.seed, row.sample)


def _cost(prices: Prices | None, replies: Sequence[Reply], *, gpu_hours: float) -> tuple[float, str] | None:
    """Return what 1,000 calls cost at the card's prices, in US dollars; None where they or the tokens are not known."""
    if prices is None or not replies or any(r.prompt_tokens is None or r.completion_tokens is None for r in replies):
        return None
    read = sum(reply.prompt_tokens or 0 for reply in replies)
    written = sum(reply.completion_tokens or 0 for reply in replies)
    usd = (prices.prompt * read + prices.completion * written) / 1e6 + prices.gpu_hour * gpu_hours
    return 1000 * usd / len(replies), f"{read:,} tokens read and {written:,} written for {len(replies):,} calls"


def _replied(row: Completion, reply: Reply | LedgerRecord | None) -> Completion:
    if reply is None or reply.completion is None:
        return replace(row, error=(reply.error if reply else None) or "the teacher did not answer")
    completion = whole_characters(reply.completion)  # half a one is what a broken server may send
    return replace(row, completion=completion, finish_reason=reply.finish_reason, tokens=reply.completion_tokens)


# -- timing ---------------------------------------------------------------------------------------------


def time_requests(
    once: Callable[[Completion], None], rows: Sequence[Completion], requests: int
) -> tuple[float, float] | None:
    """Time ``requests`` single requests end to end, spread over ``rows``; returns their p50 and p95 in
    milliseconds.

    Two requests go before, untimed: the first call of an engine pays for what later ones find ready.
    """
    import numpy as np

    if not rows or requests < 1:
        return None
    chosen = [rows[(k * len(rows)) // requests % len(rows)] for k in range(requests)]
    for row in chosen[:2]:
        once(row)
    taken = []
    for row in chosen:
        started = time.perf_counter()
        once(row)
        taken.append(1000 * (time.perf_counter() - started))
    p50, p95 = np.percentile(taken, [50, 95])
    return float(p50), float(p95)
