"""Columns of the user's own as rewards."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from reward_module import episode

from udrl.data.ledger import Ledger
from udrl.errors import InputError, RewardError, UsageError
from udrl.rewards import columns

ROWS = [
    {"input": "a fox", "completion": "a red fox", "clicks": 3, "stars": 4.5},
    {"input": "a fox", "completion": "a red fox", "clicks": 5, "stars": None},
    {"input": " a boat ", "completion": "a boat at sea\n", "clicks": 10, "stars": 1.0},
]


def write_table(folder: Path, name: str) -> Path:
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif name.endswith(".csv"):
        text = "input,completion,clicks,stars\na fox,a red fox,3,4.5\na fox,a red fox,5,\n"
        path.write_text(text + '" a boat ","a boat at sea\n",10,1.0\n')
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.csv", "t.parquet"])
def test_columns_of_file_joins_by_input_and_completion(tmp_path: Path, name: str) -> None:
    fields = [columns.parse_field("clicks"), columns.parse_field("stars=0:5")]
    clicks, stars = columns.columns_of_file(write_table(tmp_path, name), fields, Ledger(tmp_path / "none"))
    assert (clicks.facts.low, clicks.facts.high) == (4.0, 10.0), "the mean of a pair that stands twice"
    assert (stars.facts.low, stars.facts.high, stars.facts.source) == (0.0, 5.0, "column")
    assert (clicks.facts.unit, columns.parse_field("clicks=0:99: per day").unit) == ("", "per day")
    assert clicks(episode("a fox", "a red fox")) == 4.0
    assert stars(episode("a fox", "a red fox")) == 4.5
    assert clicks(episode("a boat", "a boat at sea")) == 10.0
    assert clicks(episode("a fox", "a boat at sea")) is None
    assert clicks(episode("a fox", "a red fox", origin="mismatched")) is None


@pytest.mark.parametrize(
    ("content", "field", "error", "message"),
    [
        (None, "clicks", InputError, "there is no file"),
        ("", "clicks", RewardError, "holds no number"),
        ("input,completion\na,b\n", "clicks", InputError, "no column 'clicks'; found: input, completion"),
        ("input,completion,click\na,b,1\n", "clicks", InputError, r"did you mean click\?"),
        (
            "input,completion,clicks\na,b,many\n",
            "clicks",
            RewardError,
            "line 2, row 1: 'clicks' must be a number, found 'many'",
        ),
        ("input,completion,clicks\na,b,\nc,d,\n", "clicks", RewardError, "holds no number"),
        ("input,completion,clicks\na,b,2\nc,d,2\n", "clicks", RewardError, "2 in every row"),
        (
            "input,completion,clicks\na,b,2\nc,d,7\n",
            "clicks=0:5",
            RewardError,
            r"line 3, row 2: 'clicks' is 7, .*\[0, 5\]",
        ),
        ("input,completion,clicks\na,b,inf\nc,d,7\n", "clicks", RewardError, "row 1: 'clicks' must be a number"),
    ],
)
def test_columns_of_file_bad_input(
    tmp_path: Path, content: str | None, field: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        columns.columns_of_file(path, [columns.parse_field(field)], Ledger(tmp_path / "none"))


def test_columns_of_file_reads_any_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("input,completion,clicks\n3,7,1\n5,12,2\n")
    [clicks] = columns.columns_of_file(path, [columns.parse_field("clicks")], Ledger(tmp_path / "none"))
    assert clicks(episode("5", "12")) == 2.0, "numbers are texts here"
    long = "word \n" * 400_000
    path.write_text(f'input,completion,clicks\na,"{long}",1\nb,c,2\n')
    [clicks] = columns.columns_of_file(path, [columns.parse_field("clicks")], Ledger(tmp_path / "none"))
    assert clicks(episode("a", long)) == 1.0
    rows = "".join(f'"a\n{n}","two\nlines, {n}",{n}\n' for n in range(2000))
    path.write_text(f"input,completion,clicks\n{rows}")
    [clicks] = columns.columns_of_file(path, [columns.parse_field("clicks")], Ledger(tmp_path / "none"))
    assert clicks(episode("a\n1999", "two\nlines, 1999")) == 1999.0


@pytest.mark.parametrize("text", ["click rate", "length", "clicks=5:0", "clicks=low:high", "clicks=0:inf", "clicks="])
def test_parse_field_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="reward field"):
        columns.parse_field(text)
