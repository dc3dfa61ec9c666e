"""Where the figures of a training go: training.jsonl, TensorBoard event files, a tracker if asked for, one line."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from udrl.errors import MissingDependency, is_installed
from udrl.progress import track
from udrl.training.options import Tracker

EVENTS = "tensorboard"
"""Folder of the event files, beside training.jsonl in the student's folder."""

SEEN = {
    "reward": "reward {:.2f}",
    "reward_std": "spread {:.2f}",
    "length": "{:.0f} tokens long",
    "zero_variance": "one reward in {:.0%} of groups",
    "clipped": "cut off {:.0%}",
    "accuracy": "pairs right {:.0%}",
    "chosen_change": "chosen {:+.1f} nats",
}
"""Figures of single steps that the line shows (`udrl.training.methods.watch`)."""


class Monitor:
    """Takes the training loop's figures (`log` is its callback). Close it, also after a failure."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        steps: int,
        tracker: Tracker | None = None,
        project: str = "udrl",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the files in ``folder``. tracker: also send everything there, with ``config``, as run ``name``.

        Raises MissingDependency where the tracker is not installed.
        """
        self._tracker: Any = None
        if tracker is not None:
            if not is_installed(tracker):
                raise MissingDependency(f"tracking with {tracker} needs its package: pip install {tracker}")
            self._tracker = importlib.import_module(tracker)
            self._tracker.init(project=project, name=name, config=dict(config or {}))
        self._folder = folder
        file = folder / "training.jsonl"
        self._earlier = _spent(file)
        torn = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
        self._file = file.open("a", buffering=1, encoding="utf-8")  # a line at a time: a kill loses none
        self._file.write("\n" * torn)
        self._events: Any = None
        self._bar = track(f"train {name}", total=steps, unit="steps")
        self._step = 0
        self._loss = 0.0
        self._latest: dict[str, float] = {}
        self.tokens = sum(tokens for tokens, _ in self._earlier.values())
        self.seconds = sum(seconds for _, seconds in self._earlier.values())

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of the 0-based ``step``: those of a step hold "loss", those of a validation do not."""
        self._file.write(json.dumps({"step": step + 1, **figures}) + "\n")
        self._send(step + 1, figures)
        self._latest |= {name: value for name, value in figures.items() if "loss" not in figures or name in SEEN}
        if "loss" not in figures:
            return
        self._bar.update(step + 1 - self._step)
        self._step = step + 1
        tokens, seconds = self._earlier.pop(step + 1, (0.0, 0.0))  # done again, after an interruption
        self.tokens += figures["tokens"] - tokens
        self.seconds += figures["seconds"] - seconds
        self._loss = 0.95 * self._loss + 0.05 * figures["loss"] if self._loss else figures["loss"]
        self._bar.set_postfix_str(self.line())

    def line(self) -> str:
        """Return where the training stands, for people."""
        latest = self._latest
        parts = [f"loss {self._loss:.2f}"]
        if "validation_loss" in latest:
            gap = f" (+{latest['loss_gap']:.2f} if commands lie)" if "loss_gap" in latest else ""
            parts.append(f"validation {latest['validation_loss']:.2f}{gap}")
        if "validation_reward" in latest:
            parts.append(f"validation reward {latest['validation_reward']:.2f}")
        parts += [text.format(latest[name]) for name, text in SEEN.items() if name in latest]
        obeyed = [f"{n.removeprefix('spearman_')} {v:.2f}" for n, v in latest.items() if n.startswith("spearman_")]
        if obeyed:
            parts.append(f"obeys {', '.join(obeyed)}")
            parts.append(f"ends {latest['stop_rate']:.0%}, diversity {latest['diversity']:.2f}")
        parts.append(f"{self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s")
        return ", ".join(parts)

    @property
    def signs(self) -> dict[str, float]:
        """The latest signs of obedience; empty where none were measured."""
        names = ("stop_rate", "diversity", "completions", "signs_seconds")
        return {n: v for n, v in self._latest.items() if n in names or n.startswith("spearman_")}

    def close(self) -> None:
        """Write out what is held back and end the line."""
        self._file.close()
        self._bar.close()
        if self._events is not None:
            self._events.close()
        if self._tracker is not None:
            self._tracker.finish()

    def _send(self, step: int, figures: Mapping[str, float]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            # what an interrupted call wrote from this step on is done again
            self._events = SummaryWriter(str(self._folder / EVENTS), purge_step=step)
        kind = "train" if "loss" in figures else "validation"
        named = {f"{kind}/{name}": value for name, value in figures.items()}
        for name, value in named.items():
            self._events.add_scalar(name, value, step)
        if self._tracker is not None:
            self._tracker.log(named, step=step)


def _spent(file: Path) -> dict[int, tuple[float, float]]:
    """Return tokens and seconds of each step that an interrupted training wrote down."""
    if not file.exists():
        return {}
    spent = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)
        except ValueError:  # torn by the interruption
            continue
        if "loss" in step:
            spent[int(step["step"])] = (float(step["tokens"]), float(step["seconds"]))
    return spent
