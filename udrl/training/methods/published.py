"""Published hyper-parameters (``udrl train --preset``): one table, each row with its paper and its model's size.

What a preset does not name stays as it is without one, and an option given beside it wins. udrl's own differences
remain: schedules end at a tenth of the highest rate, and lengths are those of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from udrl.errors import UsageError, unknown

LARGE = 1e9
"""Parameters of the smallest model that the rates were published for; a smaller student is given advice."""


@dataclass(frozen=True)
class Published:
    """What a paper trained with. batch_size: of GRPO, in completions; settings: options of the method."""

    name: str
    method: str
    paper: str
    model: str
    learning_rate: float
    batch_size: int
    steps: int | None = None
    epochs: float | None = None
    schedule: Literal["cosine", "linear"] | None = None
    warmup: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return what run.json keeps of it: everything that it names."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


SMOLTULU = "SmolTulu (arXiv 2412.08347)"
TULU3 = "Tulu 3 (arXiv 2411.15124)"
OPEN_RS = "Open-RS (arXiv 2503.16219)"
TULU3_DPO = {"length_normalised": True, "beta": 5.0}
TABLE = (
    Published("smoltulu", "sft", f"{SMOLTULU}, SFT-1130", "SmolLM2-1.7B", 9e-5, 8),
    Published("smoltulu-1207", "sft", f"{SMOLTULU}, SFT-1207", "SmolLM2-1.7B", 3.1e-6, 32),
    Published("tulu3", "sft", TULU3, "Llama-3.1-8B", 5e-6, 128),
    Published("smoltulu", "dpo", f"{SMOLTULU}, DPO-1130", "SmolLM2-1.7B", 8e-7, 12, settings=TULU3_DPO),
    Published("tulu3", "dpo", TULU3, "Llama-3.1-8B", 5e-7, 128, epochs=1.0, settings=TULU3_DPO),
    Published(
        "open-rs",
        "grpo",
        OPEN_RS,
        "DeepSeek-R1-Distill-Qwen-1.5B",
        1e-6,
        84,  # 42,000 completions in 500 steps
        steps=500,
        schedule="cosine",
        warmup=0.1,
        settings={
            "reward": {"accuracy": 1.0, "format": 1.0, "cosine_length": 1.0},
            "group_size": 6,
            "temperature": 0.7,
            "updates": 1,  # as 42,000 completions in 500 steps say
        },
    ),
)


def published(name: str, method: str) -> Published:
    """Return the preset ``name`` of ``method``; UsageError, with those that there are, where it has none of it."""
    of_method = {row.name: row for row in TABLE if row.method == method}
    if name in of_method:
        return of_method[name]
    others = [row.method for row in TABLE if row.name == name]
    if not others:
        raise unknown("preset", name, sorted({row.name for row in TABLE}))
    having = f"it has {', '.join(of_method)}" if of_method else "it has none"
    raise UsageError(f"the preset {name} belongs to --method {' and '.join(others)}, not to {method}: {having}")


def advice(preset: Published, parameters: int, learning_rate: float, usual: float) -> str | None:
    """Return a line where the published rate is used on a much smaller student. usual: its rate without a preset."""
    if learning_rate != preset.learning_rate or parameters >= LARGE or learning_rate >= usual / 2:
        return None
    return (
        f"the learning rate {learning_rate:g} was published for {preset.model}; a student of {parameters / 1e6:.0f}M "
        f"parameters hardly moves at it: try --learning-rate {usual:.2g}, its own without --preset"
    )
