"""The types of options that are numbers."""

from __future__ import annotations

import math
from typing import Any

import click

from udrl.arguments import LARGEST


class Whole(click.IntRange):
    """A whole number within its range; one that no machine counts to is outside of it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails with wrong usage."""
        number = super().convert(value, param, ctx)
        return number if number <= LARGEST else self.fail(f"{value} is above {LARGEST}.", param, ctx)


class Real(click.FloatRange):
    """A finite number within its range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails with wrong usage, also for nan, which lies within every range, and infinity."""
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)
