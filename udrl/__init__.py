"""Upside-down RL distillation for tiny multitask generators.

    import udrl

    student = udrl.load("runs/demo")
    command = udrl.Command("text-to-image", {"relevance": 0.6, "length": 12})
    print(student.generate(["a red fox in the snow"], [command])[0].completion)

Each stage of the command line has its function here: `synth`, `score`, `select`, `train`, `render`, `bench`, `improve`.
They are imported when they are first used, so that ``import udrl`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from udrl.commands import Command as Command
    from udrl.eval.bench import bench as bench
    from udrl.rewards.scoring import score as score
    from udrl.rounds.improve import improve as improve
    from udrl.rounds.options import RoundOptions as RoundOptions
    from udrl.student import load as load
    from udrl.teacher.synthesis.synth import synth as synth
    from udrl.training.render import render as render
    from udrl.training.reward_model import prefer as prefer
    from udrl.training.selection.select import select as select
    from udrl.training.train import train as train

__version__ = "0.1.0"

_HOMES = {
    "Command": "udrl.commands",
    "RoundOptions": "udrl.rounds.options",
    "bench": "udrl.eval.bench",
    "improve": "udrl.rounds.improve",
    "load": "udrl.student",
    "prefer": "udrl.training.reward_model",
    "render": "udrl.training.render",
    "score": "udrl.rewards.scoring",
    "select": "udrl.training.selection.select",
    "synth": "udrl.teacher.synthesis.synth",
    "train": "udrl.training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'udrl' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
