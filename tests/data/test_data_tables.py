"""One reader of tables: the same rows, refusals and places in every format."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from udrl.data import tables
from udrl.data.inputs import input_id, read_inputs, read_references
from udrl.data.known_answers import answers_of_file
from udrl.data.ledger import Ledger
from udrl.data.tables import FORMATS, kind_of, read_rows
from udrl.errors import InputError, RewardError, UdrlError
from udrl.eval.recorded import read_outputs
from udrl.rewards.columns import columns_of_file, parse_field
from udrl.teacher.backends.recorded import RecordedTeacher

ROWS = [
    {"text": f"input {n}", "output": f"out\n{n}", "input": f"input {n}", "completion": f"c {n}", "score": f"{n}"}
    for n in range(200)
]
SUFFIXES = (*FORMATS, *(f"{kind}.gz" for kind in FORMATS))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    kind = kind_of(path)
    plain = path.with_name("plain")
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), plain)
    elif kind == ".jsonl":
        plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == ".json":
        plain.write_text(json.dumps(rows))
    else:
        with plain.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    path.write_bytes(gzip.compress(plain.read_bytes()) if path.suffix == ".gz" else plain.read_bytes())
    return path


def pick(*names: str) -> Callable[[str, Collection[str]], Collection[str]]:
    return lambda _, columns: [name for name in names if name in columns]


def recorded(path: Path) -> Iterator[Any]:
    return iter(list(RecordedTeacher(path).requests()))


def rewards(path: Path) -> Iterator[Any]:
    return iter(columns_of_file(path, [parse_field("score")], Ledger(path.parent / "none")))


READERS: Mapping[str, Callable[[Path], Any]] = {
    "inputs": read_inputs,
    "references": lambda path: iter(read_references(path)),
    "answers": lambda path: iter(answers_of_file(path)),
    "outputs": read_outputs,
    "recorded": recorded,
    "rewards": rewards,
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables_of_every_format_hold_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"own{suffix.upper() if '.gz' not in suffix else suffix}", ROWS)
    found = list(read_rows(path, pick("output", "score")))
    assert [(row.values["output"], row.values["score"]) for row in found] == [(r["output"], r["score"]) for r in ROWS]
    assert list(read_inputs(path)) == [row["text"] for row in ROWS]
    [score] = columns_of_file(path, [parse_field("score")], Ledger(tmp_path / "none"))
    assert score.by_text is not None
    assert sorted(score.by_text.values()) == list(range(200))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("reader", sorted(READERS))
def test_tables_with_two_columns_of_one_name_are_refused_by_every_reader(
    tmp_path: Path, reader: str, suffix: str
) -> None:
    names = ["text", "input", "output", "completion", "score", "answer", "reference", "score"]
    path, plain = tmp_path / f"own{suffix}", tmp_path / "plain"
    kind = kind_of(path)
    if kind == ".parquet":
        pq.write_table(pa.table([pa.array(["1"])] * len(names), names=names), plain)
    elif kind in (".csv", ".tsv"):
        mark = "," if kind == ".csv" else "\t"
        plain.write_text(f"{mark.join(names)}\n{mark.join('1' for _ in names)}\n")
    else:
        row = "{" + ", ".join(f'"{name}": "1"' for name in names) + "}"
        plain.write_text(f"[{row}]" if kind == ".json" else f"{row}\n")
    path.write_bytes(gzip.compress(plain.read_bytes()) if path.suffix == ".gz" else plain.read_bytes())
    with pytest.raises(InputError, match="'score' stands there twice: rename or remove one of them") as error:
        list(READERS[reader](path))
    assert str(path) in str(error.value)


STRANGE = {
    "timestamp": pa.array([1 << 61], pa.timestamp("ms")),
    "date": pa.array([1 << 22], pa.date32()),
    "duration": pa.array([1 << 62], pa.duration("s")),
    "bytes": pa.array([b"\xff"], pa.binary()),
    "bad_text": pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    ),
    "nested": pa.array([[{"a": 1}]]),
    "twins": pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
}


@pytest.mark.parametrize("strange", sorted(STRANGE))
def test_tables_do_not_mind_what_stands_in_columns_that_nobody_wants(tmp_path: Path, strange: str) -> None:
    path = tmp_path / "own.parquet"
    good = {"text": "x", "input": "x", "output": "y", "completion": "y"}
    columns = {**{name: pa.array([value]) for name, value in good.items()}, "extra": STRANGE[strange]}
    pq.write_table(pa.table({**columns, "score": pa.array([1.0])}), path)
    assert list(read_inputs(path)) == ["x"]
    assert [one.output for one in read_outputs(path)] == ["y"]
    assert [request.sampling for request in RecordedTeacher(path).requests()] == [{"score": 1.0}]
    pq.write_table(pa.table({**columns, "text": STRANGE[strange], "score": pa.array([1.0])}), path)
    with pytest.raises(InputError, match=r"own\.parquet, row 1: .*'text'"):
        list(read_inputs(path))


def test_tables_of_json_do_not_mind_numbers_too_long_to_read(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "x", "output": "y", "n": ' + "1" * 5000 + "}\n")
    assert list(read_inputs(path)) == ["x"]
    assert [request.sampling for request in RecordedTeacher(path).requests()] == [{}]


@pytest.mark.parametrize(
    ("suffix", "place"),
    [(".csv", "line 302, row 151"), (".tsv", "line 302, row 151"), (".jsonl", "line 151"), (".json", "item 151")],
)
def test_tables_name_the_row_that_is_wrong(tmp_path: Path, suffix: str, place: str) -> None:
    rows = [{**row, "score": "12,5"} if number == 150 else row for number, row in enumerate(ROWS)]
    path = write(tmp_path / f"own{suffix}", rows)  # a cell of each row holds a line break
    with pytest.raises(RewardError) as error:
        rewards(path)
    assert str(error.value).startswith(f"{path}, {place}: 'score' must be a number, found '12,5'")
    path = write(tmp_path / "own.parquet", rows)
    with pytest.raises(RewardError, match="row 151: 'score' must be a number"):
        rewards(path)


def test_tables_of_json_may_hold_an_object_a_line_and_columns_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert list(read_inputs(path)) == ["a", "b"]
    path.write_text('{"text": "a"}\n{"text": "b"\n')
    with pytest.raises(InputError, match="line 2: not a line of JSON"):
        list(read_inputs(path))
    bare = tmp_path / "own.csv"
    bare.write_text("text,,\na,1,2\n")
    assert list(read_inputs(bare)) == ["a"], "a spreadsheet leaves columns without a name"


def test_tables_wait_for_no_pipe(tmp_path: Path) -> None:
    import os

    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    for reader in READERS.values():
        with pytest.raises(UdrlError, match="is a pipe or a device and cannot be read again"):
            list(reader(path))


def test_tables_answers_may_be_asked_for_in_any_format(tmp_path: Path) -> None:
    for suffix in FORMATS:
        path = write(tmp_path / f"own{suffix}", [{"question": "1+1?", "answer": "2"}])
        assert answers_of_file(path) == {input_id("1+1?"): "2"}


def test_tables_read_no_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_LINE", 100)
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n{"text": "' + "b" * 85 + '"}\n')
    assert [len(text) for text in read_inputs(file)] == [1, 85]
    file.write_text('{"text": "a"}\n{"text": "' + "b" * 95 + '"}\n')
    with pytest.raises(InputError, match=f"{file}, line 2: is longer than 100 bytes: break it into lines"):
        list(read_inputs(file))
