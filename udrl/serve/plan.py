"""A request becomes prompts for a student: for each input, command and choice as many candidates as are asked for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from udrl.commands import Command
from udrl.data.inputs import cut_input
from udrl.decoding.requests import Request
from udrl.decoding.sampling import Sampling
from udrl.decoding.wording import Wording
from udrl.errors import UdrlError, UsageError
from udrl.serve.fields import Ask
from udrl.serve.options import MOST_COMPLETIONS
from udrl.serve.refusal import Refusal
from udrl.serve.served import Served
from udrl.student.answers import check_candidates
from udrl.student.ladder import ladder_commands
from udrl.student.student import Student
from udrl.student.targets import Clamped


@dataclass(frozen=True)
class Slot:
    """What becomes one choice: an input under a command. seeds: of its candidates; first: the first one's request."""

    input: str
    command: Command
    clamped: Mapping[str, Clamped]
    seeds: tuple[int, ...]
    first: int
    is_cut: bool


@dataclass(frozen=True)
class Plan:
    """What is to be written for one request. requests: candidates of every slot behind each other."""

    ask: Ask
    served: Served
    slots: list[Slot]
    requests: list[Request]
    wording: Wording

    @property
    def student(self) -> Student:
        """Who writes."""
        return self.served.student

    @property
    def prompt_tokens(self) -> int:
        """How many ids are read, an input under a command once."""
        read = {tuple(self.requests[slot.first].prompt) for slot in self.slots}
        return sum(map(len, read))


def make_plan(ask: Ask, served: Served) -> Plan:
    """Return what ``ask`` means for its student; raises Refusal where it cannot be done."""
    try:
        return _plan(ask, served)
    except Refusal:
        raise
    except UdrlError as error:
        raise Refusal(str(error), param=_param(ask, served), code="invalid_value") from None


def _plan(ask: Ask, served: Served) -> Plan:
    student = served.student
    if ask.stream and ask.drawn > 1:
        raise UsageError("best_of and closest_of pick among whole completions: leave stream out")
    commands = _commands(ask, student)
    measured = dict.fromkeys(("relevance", *student.attributes), _unused)  # which are loaded when they are needed
    check_candidates(commands[0], ask.best_of, ask.closest_of, measured)
    asked = len(ask.inputs) * len(commands) * ask.n * ask.drawn
    if asked > MOST_COMPLETIONS:
        raise UsageError(f"{asked} completions are asked for, candidates included; at most {MOST_COMPLETIONS} are made")
    sampling = replace(student.sampling, **ask.sampling)
    if sampling.guidance != 1:
        served.check_guidable()
    return _written_out(ask, served, commands, sampling)


def _written_out(ask: Ask, served: Served, commands: list[Command], sampling: Sampling) -> Plan:
    student = served.student
    rendered = student.rendered(commands, warn=False)
    start = secrets.randbelow(2**31) if ask.seed is None else ask.seed
    slots: list[Slot] = []
    texts: list[str] = []
    controls: list[list[int]] = []
    seeds: list[int] = []
    for whole in ask.inputs:
        text, cut = cut_input(whole)
        for command, (control, clamped) in zip(commands, rendered, strict=True):
            for choice in range(ask.n):
                seeds_of_choice = tuple(range(start + choice * ask.drawn, start + (choice + 1) * ask.drawn))
                slots.append(Slot(text, command, clamped, seeds_of_choice, len(texts), cut))
                texts += [text] * ask.drawn
                controls += [control] * ask.drawn
                seeds += seeds_of_choice
    if ask.likeliest is not None:
        _ = student.vocabulary  # by which ids are told
    requests = student.requests(
        texts, controls, seeds=seeds, sampling=sampling, wording=ask.wording, likeliest=ask.likeliest, warn=False
    )
    slots = [replace(slot, is_cut=slot.is_cut or requests[slot.first].is_cut) for slot in slots]
    return Plan(ask, served, slots, requests, ask.wording)


def _commands(ask: Ask, student: Student) -> list[Command]:
    task = ask.task
    if task is None:
        if len(student.tasks) > 1:
            listed = ", ".join(student.tasks)
            told = f"'{ask.student}' knows several tasks: give the field task, one of {listed}"
            raise Refusal(told, param="task", code="missing_required_parameter")
        [task] = student.tasks
    return ladder_commands(student, task, ask.targets, ask.ladder)


def _param(ask: Ask, served: Served) -> str | None:
    """Return which field an error of the student is about, where one can be told."""
    known = served.student
    if ask.task is not None and ask.task not in known.tasks:
        return "task"
    task = ask.task or known.tasks[0]
    for name, target in ask.targets.items():
        try:
            known.commanded(task, {name: target})
        except UdrlError:
            return name
    return None


def _unused(inputs: object, completions: object) -> list[float]:
    raise AssertionError("a name alone: nothing is scored by it")
