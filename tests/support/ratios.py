"""The interval of one ratio, by what computes those of many at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from udrl.bootstrap import ratio_intervals
from udrl.metrics import Interval


def ratio_interval(
    a: npt.ArrayLike, b: npt.ArrayLike, clusters: npt.ArrayLike | None = None, *, seed: int = 0
) -> Interval:
    """Return mean(a) / mean(b), a[i] and b[i] being of the same item, with its paired 95 % interval."""
    top, bottom = (np.asarray(values, dtype=np.float64)[:, None] for values in (a, b))
    found = ratio_intervals(top, bottom, clusters, seed=seed)
    return Interval(float(found.mean[0]), float(found.lo[0]), float(found.hi[0]))
