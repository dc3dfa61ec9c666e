"""What systems wrote: one record a completion, kept in ``completions.parquet`` of a benchmark.

The file also remembers, for every block of rows that was generated together (a system, or one sweep of a
student), the *key* of all that decided its content. A later benchmark reuses a block only where its key is
the same; nothing else in a benchmark needs a model, so scores, summary and report can be made again from
this file alone.

Columns of completions.parquet (nullable ones marked with ?):

==============  =======  ================================================================================
block           string   the system's name, or STUDENT#PART.ATTRIBUTE for a sweep
system          string   who wrote it, as tables name it
part            string   comparison, following (one attribute swept, others open), leakage (others at median),
                         uncalibrated (as following, on fewer inputs, commands not corrected by calibration)
task            string
input_id        string   hash of the normalised input
input           string
sample          int32    which completion of the input (of the level)
seed            int64    of this completion's own random stream
attribute?      string   the attribute that is swept
level?          int32    which level of it, 0 to 8
targets         string   JSON: what was commanded, attribute -> value (empty: nothing)
completion?     string   null where the system failed
finish_reason?  string   stop, length or null (the system does not say)
tokens?         int32    completion tokens
error?          string   why there is no completion
==============  =======  ================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from udrl.data.hashing import hash_hex
from udrl.errors import RunError
from udrl.files import replacing_file

SCHEMA = 1
FILE = "completions.parquet"
METADATA = b"udrl"

Part = Literal["comparison", "following", "leakage", "uncalibrated"]
Kind = Literal["student", "teacher", "reference", "recorded", "baseline"]


@dataclass(frozen=True)
class Completion:
    """One completion of one system: a row of completions.parquet (see the module's docstring for the
    columns).
    """

    block: str
    system: str
    part: Part
    task: str
    input_id: str
    input: str
    sample: int
    seed: int
    completion: str | None
    attribute: str | None = None
    level: int | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str | None = None
    tokens: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class SystemFacts:
    """What a table says of a system besides its scores.

    latency_ms: (p50, p95) of one request end to end, None where none was timed; tokens_per_second:
    completion tokens of the whole batch by its wall clock. student: which student the row is one of, None for
    others. batch_size: completions written together, None where nobody knows. cost: (US dollars for 1,000 calls, what
    that is made of). notes: sentences for the report (what was matched, what was clamped).
    """

    name: str
    kind: Kind
    parameters: int | None = None
    engine: str | None = None
    precision: str | None = None
    latency_ms: tuple[float, float] | None = None
    tokens_per_second: float | None = None
    notes: tuple[str, ...] = ()
    student: str | None = None
    batch_size: int | None = None
    cost: tuple[float, str] | None = None


@dataclass(frozen=True)
class Block:
    """Rows that were generated together, the key of what decided them, and the facts of their system."""

    name: str
    key: str
    facts: SystemFacts
    rows: tuple[Completion, ...]


def block_key(*parts: Any) -> str:
    """Return the key of a block: a hash of everything that decided its content, as JSON."""
    return hash_hex(SCHEMA, json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str))


def write_blocks(folder: Path, blocks: Sequence[Block], *, about: Mapping[str, Any]) -> None:
    """Write ``completions.parquet`` into ``folder``, atomically; ``about`` is what the report says of the
    benchmark.
    """
    import pyarrow as pa

    columns: dict[str, list[Any]] = {f.name: [] for f in fields(Completion)}
    for block in blocks:
        for row in block.rows:
            for name, values in columns.items():
                value = getattr(row, name)
                values.append(json.dumps(dict(value), sort_keys=True) if name == "targets" else value)
    types = {"sample": pa.int32(), "seed": pa.int64(), "level": pa.int32(), "tokens": pa.int32()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    described = [{"name": b.name, "key": b.key, "facts": asdict(b.facts)} for b in blocks]
    write_table(folder / FILE, pa.table(columns, schema=schema), {**about, "schema": SCHEMA, "blocks": described})


def read_blocks(folder: Path) -> dict[str, Block]:
    """Read the blocks of a benchmark's folder by name; none where there is no file.

    Raises RunError for a damaged file or one of a newer schema.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    table, about = read_table(path)
    rows: dict[str, list[Completion]] = {}
    for record in table.to_pylist():
        record["targets"] = json.loads(record["targets"])
        rows.setdefault(record["block"], []).append(Completion(**record))
    return {
        entry["name"]: Block(entry["name"], entry["key"], _facts(entry["facts"]), tuple(rows.get(entry["name"], ())))
        for entry in about["blocks"]
    }


def write_table(path: Path, table: Any, about: Mapping[str, Any]) -> None:
    """Write an Arrow table with ``about`` as its metadata, so that readers see the old file or the whole
    new one.
    """
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata({METADATA: json.dumps(about).encode()})
    with replacing_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_table(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the Arrow table at ``path`` and what its metadata says; raises RunError where either is
    unusable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[METADATA])
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged or not of udrl ({error}): remove it and run udrl bench again") from error
    if about.get("schema") != SCHEMA:
        raise RunError(f"{path} has schema {about.get('schema')}, this version reads {SCHEMA}: remove it")
    return table, about


def _facts(data: dict[str, Any]) -> SystemFacts:
    pairs = {name: tuple(data[name]) if data.get(name) else None for name in ("latency_ms", "cost")}
    return SystemFacts(**{**data, **pairs, "notes": tuple(data["notes"])})
