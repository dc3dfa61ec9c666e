"""The files that hold the episodes."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from udrl.commands import CommandSpace
from udrl.data.episode import Episode
from udrl.data.episodes import (
    NothingKept,
    check_kept,
    count_episodes,
    has_episodes,
    noted,
    read_episodes,
    write_episodes,
)
from udrl.data.inputs import input_id, split_of
from udrl.data.run import Run
from udrl.errors import RewardError, RunError
from udrl.eval.students import _seen
from udrl.training.origin import Origin, replayed


def episode(number: int, **changes: Any) -> Episode:
    text = f"input {number}"
    base = Episode(
        episode_id=f"{number:016x}",
        task="text-to-image",
        input_id=input_id(text),
        input=text,
        completion="a completion",
        horizon=2,
        origin="teacher",
        teacher="builtin",
        sampling="{}",
        seed=number,
        split=split_of(input_id(text)),
        returns={"relevance": number / 1000},
    )
    return replace(base, **changes)


def test_episodes_come_back_as_written(tmp_path: Path) -> None:
    written = [
        episode(n, origin=("teacher", "mismatched")[n % 2], rejected_by="loop" if n % 5 == 0 else None)
        for n in range(400)
    ]
    written[1] = replace(written[1], returns={})
    written[2] = replace(written[2], returns={"relevance": 0.5, "clicks": 3.0})
    counts = write_episodes(tmp_path / "episodes", written, reward_names=("relevance", "clicks"))
    assert counts["total"] == 400
    assert counts["rejected:loop"] == 80
    assert counts == count_episodes(tmp_path / "episodes")
    splits = ("train", "validation", "test")
    everything = read_episodes(tmp_path / "episodes", splits=splits, kept=False)
    complete = [
        replace(e, returns={"relevance": None, "clicks": None, **e.returns} if e.returns else {}) for e in written
    ]
    assert sorted(everything, key=lambda e: e.episode_id) == complete
    kept = read_episodes(tmp_path / "episodes", origins=("mismatched",))
    assert {(e.split, e.origin, e.rejected_by) for e in kept} == {("train", "mismatched", None)}
    assert len(kept) == sum(e.split == "train" and e.seed % 2 == 1 and e.seed % 5 != 0 for e in written)


def test_episodes_load_with_datasets(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "episodes"
    write_episodes(folder, [episode(n) for n in range(100)], reward_names=("relevance",))
    by_folder = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert by_folder["train"].column_names[:3] == ["schema", "episode_id", "task"]
    assert sum(split.num_rows for split in by_folder.values()) == 100
    by_file = datasets.load_dataset(
        "parquet", data_files={"train": str(folder / "train.parquet")}, cache_dir=str(tmp_path / "cache")
    )
    assert by_file["train"][0]["returns"]["relevance"] == read_episodes(folder)[0].returns["relevance"]


def test_episodes_load_from_one_cache_is_always_what_is_on_disk(tmp_path: Path) -> None:
    """Folders of one name, as those of all runs are, and one folder whose rows are replaced, share a cache."""
    import datasets

    cache = str(tmp_path / "cache")
    runs = [tmp_path / name / "episodes" for name in ("a", "b")]
    made = {folder: [replace(episode(n), completion=f"{folder.parent.name} {n}") for n in range(40)] for folder in runs}

    def check(folder: Path, rows: list[Episode]) -> None:
        by_folder = datasets.load_dataset(str(folder), cache_dir=cache)
        assert sorted(row["episode_id"] + row["completion"] for split in by_folder.values() for row in split) == sorted(
            one.episode_id + one.completion for one in rows
        )
        train = datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), cache_dir=cache)["train"]
        assert list(train["completion"]) == [one.completion for one in rows if one.split == "train"]
        kept = by_folder.filter(lambda row: row["rejected_by"] is None)["train"]
        assert list(kept["completion"]) == [one.completion for one in read_episodes(folder)]

    for folder, rows in made.items():
        write_episodes(folder, rows, reward_names=("relevance",))
        check(folder, rows)
    for folder, rows in made.items():
        check(folder, rows)
    rescored = [replace(one, returns={"relevance": 0.5}) for one in made[runs[0]]]
    write_episodes(runs[0], rescored, reward_names=("relevance",))
    loaded = datasets.load_dataset(str(runs[0]), cache_dir=cache)["train"]
    assert {row["returns"]["relevance"] for row in loaded} == {0.5}


def test_episodes_without_returns_load_with_datasets_even_with_an_empty_split(tmp_path: Path) -> None:
    import datasets

    train = [e for e in (episode(n, returns={}) for n in range(20)) if e.split == "train"]
    write_episodes(tmp_path / "episodes", train)
    loaded = datasets.load_dataset(str(tmp_path / "episodes"), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": len(train)}
    assert read_episodes(tmp_path / "episodes") == train


def test_episodes_card_is_a_valid_dataset_card(tmp_path: Path) -> None:
    facts = {"licence": "apache-2.0", "teacher builtin": "rules | no limits"}
    episodes = [episode(n) for n in range(100)]
    write_episodes(tmp_path / "episodes", episodes, reward_names=("relevance",), card_facts=facts)
    text = (tmp_path / "episodes" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "apache-2.0"
    assert [item["split"] for item in header["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert "| teacher builtin | rules \\| no limits |" in text


def test_episodes_card_counts_what_is_in_the_files(tmp_path: Path) -> None:
    from udrl.teacher.synthesis.synth import synth

    run = tmp_path / "run"
    synth(run, tasks=["search-query", "assistant"], num_inputs=30, samples=4, rewards=("novelty",))
    text = (run / "episodes" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["size_categories"] == ["n<1K"]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    every = read_episodes(run / "episodes", splits=("train", "validation", "test"), kept=False)
    head = next(row for row in table if row[:2] == ["task", "episodes"])
    for task in ("search-query", "assistant", "all"):
        row = dict(zip(head, next(row for row in table if row[0] == task and len(row) == len(head)), strict=True))
        of_task = [e for e in every if task in (e.task, "all")]
        expected = {"episodes": len(of_task), "of them rejected": sum(e.rejected_by is not None for e in of_task)}
        expected |= {name: sum(e.split == name for e in of_task) for name in ("train", "validation", "test")}
        expected |= {
            name: sum(e.origin == name for e in of_task) for name in ("teacher", "mismatched", "truncated", "spliced")
        }
        assert {name: int(row[name]) for name in expected} == expected
    rejected = sum(e.rejected_by == "duplicate" for e in every)
    assert rejected
    assert ["rejected: duplicate", str(rejected)] in [row[:2] for row in table]
    kept = [e for e in every if (e.task, e.origin, e.rejected_by) == ("assistant", "truncated", None)]
    low, middle, high = np.quantile([e.returns["novelty"] for e in kept], (0.1, 0.5, 0.9))
    [found] = [row for row in table if row[:2] == ["assistant", "truncated"]]
    assert found[3] == f"{low:.2f} / {middle:.2f} / {high:.2f}"
    assert found[2].split(" / ")[1] == f"{np.median([e.horizon for e in kept]):.0f}"


def test_episodes_stay_the_old_ones_until_all_new_ones_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "episodes"
    old = [e for e in map(episode, range(50)) if e.split == "train"]
    write_episodes(folder, old, reward_names=("relevance",))

    def failing() -> Iterator[Episode]:
        yield episode(1000)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="the disk is full"):
        write_episodes(folder, failing(), reward_names=("relevance",))
    assert read_episodes(folder) == old
    # The moment between the two renames of the swap: killed there, readers find the old ones.
    folder.rename(tmp_path / ".episodes.old")
    assert read_episodes(folder) == old
    new = [e for e in map(episode, range(60)) if e.split == "train"]
    write_episodes(folder, new, reward_names=("relevance",))
    assert read_episodes(folder) == new
    assert [path.name for path in tmp_path.iterdir()] == ["episodes"]


def test_episodes_are_found_by_all_who_need_them_where_the_swap_was_cut_short(tmp_path: Path) -> None:
    run = Run(tmp_path)
    origin = Origin(run.student, run, "s", "w", 0, cast(CommandSpace, SimpleNamespace(tasks=("warm",))), {})
    assert not has_episodes(run.episodes)
    assert _seen(run) == frozenset()
    old = [replace(e, task="warm") for e in map(episode, range(50)) if e.split == "train"]
    write_episodes(run.episodes, old, reward_names=("relevance",))
    kept = [e for e in old if e.rejected_by is None]
    for _ in range(2):
        assert has_episodes(run.episodes)
        assert _seen(run) == {e.input_id for e in kept} != set()
        assert replayed(origin, [], share=1, split="train", seed=0) == kept
        if run.episodes.is_dir():
            run.episodes.rename(tmp_path / ".episodes.old")


def test_episodes_refuse_returns_that_would_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="'relevance', which is not"):
        write_episodes(tmp_path / "episodes", [episode(1)], reward_names=("clicks",))


def test_episodes_missing_newer_or_strange_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "episodes"
    with pytest.raises(RunError, match="does not exist: make episodes with"):
        read_episodes(folder)
    write_episodes(folder, [episode(1)], reward_names=("relevance",))
    path = folder / "train.parquet"
    table = pq.read_table(path)
    newer = {b"udrl": b"9.1.0", b"udrl_schema": b"2"}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(RunError, match=r"written by udrl 9.1.0 with schema 2.*install udrl 9.1.0"):
        read_episodes(folder)
    pq.write_table(pa.table({"text": ["x"]}), path)
    with pytest.raises(RunError, match="lacks the columns schema, episode_id"):
        read_episodes(folder)
    path.write_bytes(b"PAR1")
    with pytest.raises(RunError, match="not a whole Parquet file"):
        read_episodes(folder)
    path.unlink()
    with pytest.raises(RunError, match=r"train.parquet is missing"):
        read_episodes(folder)


def test_what_cleaning_noted_is_told_from_a_column_of_the_same_name() -> None:
    assert noted('{"repaired": "quoted, preamble"}', "repaired") == ["quoted", "preamble"]
    assert noted('{"masked": 0.0}', "masked") == []
    assert noted('{"style": "masked"}', "masked") == []


def test_episodes_without_any_return_are_nothing_to_train_on(tmp_path: Path) -> None:
    counts = {"total": 12, "rejected:refusal": 2}
    with pytest.raises(NothingKept, match=r"none of the 10 kept episodes in .* has a value of relevance, novelty"):
        check_kept(tmp_path, counts, {"relevance": 10, "novelty": 10})
    check_kept(tmp_path, counts, {"relevance": 10, "novelty": 9})
    check_kept(tmp_path, counts)


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("completion", pa.array([7, 8]), "the column 'completion' holds int64 instead of string"),
        ("returns", pa.array([0.5, 0.5]), "the column 'returns' holds double instead of struct<>"),
        ("task", pa.array([["a"], ["b"]]), "the column 'task' holds list<"),
        ("completion", pa.array(["a red fox", None]), "the column 'completion' lacks values"),
        ("origin", pa.array(["teacher", "y"]), "'y' is no origin of an episode"),
        ("split", pa.array(["train", "none"]), "'none' is no split of an episode"),
    ],
)
def test_episodes_of_other_kinds_are_told_by_column(tmp_path: Path, column: str, values: pa.Array, told: str) -> None:
    made = [
        Episode(
            f"{n:016x}", "search-query", input_id(f"fox {n}"), f"fox {n}", "a fox", 2, "teacher", "t", "{}", 0, "train"
        )
        for n in range(2)
    ]
    write_episodes(tmp_path / "episodes", made, reward_names=[])
    file = tmp_path / "episodes" / "train.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index(column)
    changed = table.set_column(place, column, values)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), file)
    with pytest.raises(RunError, match=re.escape(told)):
        read_episodes(tmp_path / "episodes")


def test_episodes_in_a_pipe_are_refused(tmp_path: Path) -> None:
    write_episodes(tmp_path / "episodes", [], reward_names=[])
    (tmp_path / "episodes" / "train.parquet").unlink()
    os.mkfifo(tmp_path / "episodes" / "train.parquet")
    with pytest.raises(RunError, match=r"train\.parquet: is no file"):
        read_episodes(tmp_path / "episodes")


def test_episodes_with_a_column_twice_are_told(tmp_path: Path) -> None:
    made = Episode(f"{0:016x}", "search-query", input_id("fox"), "fox", "a fox", 2, "teacher", "t", "{}", 0, "train")
    write_episodes(tmp_path / "episodes", [made], reward_names=[])
    file = tmp_path / "episodes" / "train.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("teacher", table.column("teacher")), file)
    with pytest.raises(RunError, match="has the columns teacher more than once: run 'udrl score' again"):
        read_episodes(tmp_path / "episodes")
