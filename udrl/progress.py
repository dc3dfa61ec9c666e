"""Progress on standard error: rate and time left at a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Protocol


class Bar(Protocol):
    """What a stage needs of a progress bar."""

    def update(self, n: float | None = 1) -> bool | None: ...
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None: ...
    def close(self) -> None: ...


def track(description: str, *, total: int | None, unit: str, initial: int = 0) -> Bar:
    """Open a progress bar over ``total`` units (None: unknown); silent where stderr is not a terminal."""
    from tqdm import tqdm

    bar: Bar = tqdm(
        total=total, initial=initial, desc=description, unit=f" {unit}", disable=None, smoothing=0.1, dynamic_ncols=True
    )
    return bar


def note(text: str) -> None:
    """Write a warning to standard error from any thread, above a bar where one is shown."""
    say(f"warning: {text}")


def say(text: str) -> None:
    """Write a line to standard error from any thread, above a bar where one is shown."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
