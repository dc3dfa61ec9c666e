"""Episodes: what training reads. Built from the ledger, stored as Parquet with one file per split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from udrl.data.cleaning import REPAIRED
from udrl.data.dataset_card import dataset_card
from udrl.data.episode import SCHEMA, SPLITS, Episode, Origin, episode_schema
from udrl.data.inputs import Split
from udrl.data.pii import MASKED
from udrl.data.statistics import EpisodeMeter
from udrl.errors import RewardError, RunError, damaged
from udrl.files import replacing_folder, standing

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


ROW_GROUP = 10_000


def write_episodes(
    folder: Path,
    episodes: Iterable[Episode],
    *,
    reward_names: Sequence[str] = (),
    card_facts: Mapping[str, object] | None = None,
) -> Counter[str]:
    """Write ``episodes`` as the dataset in ``folder``, which is replaced as a whole once all of them are
    there.

    One file per split and README.md, the dataset card, so that ``datasets.load_dataset(folder)`` reads it, and reads
    it anew whenever it has changed: the card holds a hash of the files.
    Streams: at most ROW_GROUP episodes per split are held, and some 20 bytes of each for the card.

    reward_names: the fields of ``returns``; none: ``relevance``, null throughout (Parquet knows no empty
    struct).
    card_facts: lines of the card's table (``licence`` becomes the dataset's licence).
    Returns counts by origin, ``SPLIT``, ``rejected:RULE`` and ``repaired:RULE`` (the teacher's own), ``masked:KIND``,
    and the ``total``. Raises RewardError for a return that is not among the names, RunError where the disk is full.
    """
    import pyarrow.parquet as pq

    names = tuple(reward_names) or ("relevance",)
    schema = episode_schema(names)
    counts: Counter[str] = Counter()
    meter = EpisodeMeter(names)
    with replacing_folder(folder) as new:
        with ExitStack() as stack:
            # A Python file, not a path: its errors carry the errno that tells a full disk.
            files = {split: stack.enter_context((new / f"{split}.parquet").open("wb")) for split in SPLITS}
            writers = {
                split: stack.enter_context(pq.ParquetWriter(file, schema, compression="zstd"))
                for split, file in files.items()
            }
            buffers: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
            for episode in episodes:
                buffer = buffers[episode.split]
                buffer.append(_row(episode, names))
                _count(counts, episode.split, episode.origin, episode.rejected_by, episode.sampling)
                meter.add(episode)
                if len(buffer) >= ROW_GROUP:
                    writers[episode.split].write_table(_table(buffer, schema))
                    buffer.clear()
            for split, buffer in buffers.items():
                if buffer:  # datasets cannot read a row group without rows
                    writers[split].write_table(_table(buffer, schema))
        content = _content(new / f"{split}.parquet" for split in SPLITS)
        card = dataset_card(counts=counts, meter=meter, facts=card_facts or {}, content=content)
        (new / "README.md").write_text(card, encoding="utf-8")
    return counts


class NothingKept(RunError):
    """Episodes were built, and none of them can be trained on. counts: as ``write_episodes`` returned them."""

    def __init__(self, message: str, counts: Mapping[str, int]) -> None:
        super().__init__(message)
        self.counts = counts


def check_kept(run: Path, counts: Mapping[str, int], unscored: Mapping[str, int] | None = None) -> None:
    """Raise NothingKept where every episode of the run in ``run`` was rejected, or none has a return.

    counts: of ``write_episodes``. unscored: by reward, how many kept episodes have no value; None: nothing was scored.
    """
    rules = {name.partition(":")[2]: count for name, count in counts.items() if name.startswith("rejected:")}
    kept = counts.get("total", 0) - sum(rules.values())
    if kept:
        if unscored and min(unscored.values()) >= kept:
            raise NothingKept(
                f"nothing was scored: none of the {kept:,} kept episodes in {run} has a value of "
                f"{', '.join(unscored)}: score with a reward that knows these texts ('udrl score --reward'; for "
                "relevance of a script that the encoder does not know, --encoder)",
                counts,
            )
        return
    told = ", ".join(f"{count:,} {rule}" for rule, count in sorted(rules.items(), key=lambda item: -item[1]))
    raise NothingKept(
        f"nothing is left to train on: all {counts.get('total', 0):,} completions were rejected ({told}): "
        f"look at them with 'udrl synth --run {run} --show-rejected', correct the task's length or rules, then 'udrl "
        f"score --run {run}'",
        counts,
    )


def read_episodes(
    folder: Path,
    *,
    splits: Collection[str] = ("train",),
    kept: bool = True,
    origins: Collection[str] | None = None,
) -> list[Episode]:
    """Return the episodes of ``splits`` in the order of the files.

    kept: only those that no rule rejected. origins: only these (None: all).
    Raises RunError where there are none, or they have a newer schema or other columns.
    """
    return list(iterate_episodes(folder, splits=splits, kept=kept, origins=origins))


def iterate_episodes(
    folder: Path,
    *,
    splits: Collection[str] = SPLITS,
    kept: bool = True,
    origins: Collection[str] | None = None,
) -> Iterator[Episode]:
    """Yield what ``read_episodes`` returns, reading ROW_GROUP episodes at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for split in SPLITS:
        if split not in splits:
            continue
        advice = "run 'udrl score' again"
        with _open(folder, split) as file, damaged(RunError, f"{folder / split}.parquet", advice):
            for batch in file.iter_batches(batch_size=ROW_GROUP):
                _check_values(f"{folder / split}.parquet", batch)
                if kept:
                    batch = batch.filter(pc.is_null(batch.column("rejected_by")))
                if origins is not None:
                    batch = batch.filter(pc.is_in(batch.column("origin"), value_set=pa.array(sorted(origins))))
                yield from map(_from_row, batch.to_pylist())


def has_episodes(folder: Path) -> bool:
    """Say whether there is a dataset in ``folder``, also where a crash left its replacement half done."""
    return standing(folder).is_dir()


def count_episodes(folder: Path) -> Counter[str]:
    """Return how many episodes there are: what ``write_episodes`` returned when it wrote them."""

    counts: Counter[str] = Counter()
    for split in SPLITS:
        advice = "run 'udrl score' again"
        with _open(folder, split) as file, damaged(RunError, f"{folder / split}.parquet", advice):
            for batch in file.iter_batches(batch_size=ROW_GROUP, columns=["origin", "rejected_by", "sampling"]):
                for row in batch.to_pylist():
                    _count(counts, split, row["origin"], row["rejected_by"], row["sampling"])
    return counts


def count_kept(folder: Path, split: Split) -> int:
    """Return how many episodes of ``split`` no rule rejected; raises RunError as `read_episodes` does."""
    with _open(folder, split) as file, damaged(RunError, f"{folder / split}.parquet", "run 'udrl score' again"):
        return sum(batch.column(0).null_count for batch in file.iter_batches(columns=["rejected_by"]))


def reward_names(folder: Path) -> list[str]:
    """Return the names of the rewards that the episodes in ``folder`` have a column for."""
    with _open(folder, SPLITS[0]) as file:
        return [field.name for field in file.schema_arrow.field("returns").type]


_NAMES = tuple(item.name for item in fields(Episode))


def _row(episode: Episode, reward_names: tuple[str, ...]) -> dict[str, Any]:
    for name in episode.returns:
        if name not in reward_names:
            raise RewardError(f"episode {episode.episode_id} has the return '{name}', which is not to be written")
    row = {name: getattr(episode, name) for name in _NAMES}
    return {**row, "schema": SCHEMA, "returns": dict(episode.returns) or None}


def _from_row(row: dict[str, Any]) -> Episode:
    del row["schema"]
    row["returns"] = row["returns"] or {}
    return Episode(**row)


def noted(sampling: str, name: str) -> list[str]:
    """Return what cleaning (REPAIRED) or masking (MASKED) noted in an episode's column ``sampling``."""
    names = json.loads(sampling).get(name) if f'"{name}"' in sampling else None
    return names.split(", ") if isinstance(names, str) else []  # a number of that name is the user's own


def _count(counts: Counter[str], split: str, origin: str, rejected_by: str | None, sampling: str) -> None:
    counts.update(("total", split, origin))
    if origin == "teacher":
        counts.update(f"repaired:{rule}" for rule in noted(sampling, REPAIRED))
    counts.update(f"masked:{kind}" for kind in noted(sampling, MASKED))
    if rejected_by is not None:
        counts[f"rejected:{rejected_by}"] += 1


def _content(paths: Iterable[Path]) -> str:
    """Return 16 hex digits of what the files hold."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema)


def _open(folder: Path, split: str) -> pq.ParquetFile:
    """Open the file of ``split``, with its columns checked; raises RunError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    current = standing(folder)
    if not current.is_dir():
        raise RunError(f"{folder} does not exist: make episodes with 'udrl synth' or 'udrl score' first")
    path = current / f"{split}.parquet"
    try:
        if path.exists() and not path.is_file():  # a pipe may never end
            raise RunError(f"{path}: is no file: run 'udrl score' again")
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise RunError(f"{folder} holds no episodes ({path.name} is missing): run 'udrl score' again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{path}: is not a whole Parquet file: run 'udrl score' again") from error
    _check_schema(path, file.schema_arrow)
    return file


def _check_schema(path: Path, schema: pa.Schema) -> None:
    import pyarrow as pa

    metadata = schema.metadata or {}
    written_in = int(metadata.get(b"udrl_schema", b"0"))
    version = metadata.get(b"udrl", b"unknown").decode()
    if written_in > SCHEMA:
        raise RunError(
            f"{path}: written by udrl {version} with schema {written_in}, this udrl reads up to {SCHEMA}: install "
            f"udrl {version}"
        )
    missing = [name for name in ("schema", *_NAMES) if name not in schema.names]
    if missing:
        raise RunError(f"{path}: lacks the columns {', '.join(missing)}, so it holds no episodes: run 'udrl score'")
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise RunError(f"{path}: has the columns {', '.join(twice)} more than once: run 'udrl score' again")
    returns = schema.field("returns").type
    wanted = episode_schema([entry.name for entry in returns] if pa.types.is_struct(returns) else [])
    for name in wanted.names:
        if schema.field(name).type != wanted.field(name).type:
            raise RunError(
                f"{path}: the column '{name}' holds {schema.field(name).type} instead of {wanted.field(name).type}, so "
                "it holds no episodes: run 'udrl score' again"
            )


def _check_values(path: str, batch: pa.RecordBatch) -> None:
    """Raise RunError where a required value is missing, or an origin or split is none."""
    import pyarrow.compute as pc

    for name in ("schema", *_NAMES):
        if name not in ("returns", "rejected_by") and batch.column(name).null_count:
            raise RunError(f"{path}: the column '{name}' lacks values: run 'udrl score' again")
    for name, known in (("origin", get_args(Origin)), ("split", SPLITS)):
        if strange := set(pc.unique(batch.column(name)).to_pylist()) - {*known}:
            raise RunError(f"{path}: '{min(strange)}' is no {name} of an episode: run 'udrl score' again")
