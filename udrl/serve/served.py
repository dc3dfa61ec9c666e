"""One student that is served, and what belongs to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from udrl.commands import LENGTH, Command
from udrl.data.run import Run
from udrl.decoding.guidance import check_guidable
from udrl.serve.batching import Worker
from udrl.student.answers import Score, student_rewards, student_run
from udrl.student.student import Student


@dataclass
class Served:
    """name: what clients ask for; folder: where it was loaded from; rewards: None until something is scored."""

    name: str
    folder: Path
    student: Student
    worker: Worker
    created: int = field(default_factory=lambda: int(time.time()))
    rewards: dict[str, Score] | None = None

    def scored_by(self) -> Mapping[str, Score]:
        """Return what completions are scored with, loaded when first asked for; not for the event loop."""
        if self.rewards is None:
            self.rewards = student_rewards(self.folder, self.student)
        return self.rewards

    @property
    def run(self) -> Run | None:
        """The run whose student it is, if it is one's."""
        return student_run(self.folder)

    def check_guidable(self) -> None:
        """Raise UsageError where it is known that the student was never trained without a command."""
        if (run := self.run) is not None:
            check_guidable(run)

    def reachable(self, command: Command) -> dict[str, list[float]]:
        """Return the lowest and highest value of each attribute that can be reached beside the command's length."""
        length = command.targets.get(LENGTH)
        return {
            name: [round(end, 4) for end in self.student.reachable(command.task, name, length=length)]
            for name in self.student.attributes
        }

    def reachable_at(self, task: str | None, length: float | None) -> dict[str, Any]:
        """Return what is reachable in a task (default: the first), at a length if one is given; raises UdrlError."""
        command = Command(self.student.tasks[0] if task is None else task, {} if length is None else {LENGTH: length})
        self.student.space.check(command)
        return {"task": command.task, "reachable": self.reachable(command)}

    @property
    def card(self) -> dict[str, Any]:
        """Return what ``/v1/models`` says of it."""
        student = self.student
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "udrl",
            "udrl": {
                "tasks": list(student.tasks),
                "attributes": {
                    one.name: {"low": one.low, "high": one.high, "unit": one.unit} for one in student.space.attributes
                },
                "reachable": {task: self.reachable(Command(task)) for task in student.tasks},
                "engine": student.engine,
                "precision": student.precision,
                "parameters": student.parameters,
                "context": student.computes.context,
            },
        }

    async def warm(self) -> None:
        """Write one word, so that the first request does not wait for what is made once."""
        control = self.student.rendered([Command(self.student.tasks[0])])[0][0]
        job = self.worker.submit(self.student.requests(["a"], [control]), by_token=True)
        async for _ in job.steps():
            break
        job.drop()


def start_served(
    name: str, folder: Path, student: Student, *, most: int, room: int, loop: asyncio.AbstractEventLoop
) -> Served:
    """Return a loaded ``student`` with a thread that writes for it."""
    return Served(name, folder, student, Worker(student.computes, most=most, room=room, loop=loop))
