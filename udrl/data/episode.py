"""What an episode is: a record here, a row in the files of `udrl.data.episodes`.

Column table, in order (``EPISODE_SCHEMA`` is the truth):

    schema         int     version of this table
    episode_id     text    hash of the ledger key, the origin and, for derived episodes, what it was derived
                           with
    task           text    the task's name
    input_id       text    hash of the normalised input, shared across tasks
    input          text
    completion     text
    returns        struct  one float per reward; null: not scored
    horizon        int     length of the completion in words
    origin         text    teacher, mismatched, truncated, spliced or student
    teacher        text    who wrote the completion
    round          int     0: synthesis; from 1: rounds of improvement
    sampling       text    the settings it was written with, as JSON; of a derived one also how it was derived
    seed           int
    split          text    train, validation or test; a function of input_id
    rejected_by    text    the rule that keeps it out of training; null: kept
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from udrl import __version__
from udrl.data.inputs import Split

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
Origin = Literal["teacher", "mismatched", "truncated", "spliced", "student"]
DERIVED: tuple[Origin, ...] = ("mismatched", "truncated", "spliced")
"""Origins of episodes that nobody wrote as an answer (`udrl.data.derived`): only upside-down RL can learn from them."""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Episode:
    """A completion for an input, with what it achieved. The fields are the columns of the module's table."""

    episode_id: str
    task: str
    input_id: str
    input: str
    completion: str
    horizon: int
    origin: Origin
    teacher: str
    sampling: str
    seed: int
    split: Split
    returns: Mapping[str, float | None] = field(default_factory=dict)
    round: int = 0
    rejected_by: str | None = None


def episode_schema(reward_names: Sequence[str]) -> pa.Schema:
    """Return the Arrow schema of the module's table, with one float in ``returns`` for each of
    ``reward_names``."""
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    columns = {
        "schema": pa.int32(),
        "episode_id": text,
        "task": text,
        "input_id": text,
        "input": text,
        "completion": text,
        "returns": pa.struct([(name, pa.float64()) for name in reward_names]),
        "horizon": pa.int32(),
        "origin": text,
        "teacher": text,
        "round": pa.int32(),
        "sampling": text,
        "seed": whole,
        "split": text,
        "rejected_by": text,
    }
    return pa.schema(list(columns.items()), metadata={"udrl": __version__, "udrl_schema": str(SCHEMA)})
