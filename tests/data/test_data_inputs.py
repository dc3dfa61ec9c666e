"""Reading inputs from users' files, their identity and their split."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.data.inputs import (
    MAX_INPUT_CHARACTERS,
    MAX_INPUT_WORDS,
    cut_input,
    input_id,
    normalise,
    read_inputs,
    read_references,
    split_of,
)
from udrl.errors import InputError
from udrl.words import count_words

TEXTS = ["a red fox, asleep", 'she said "no"', "naïve café – 東京", "two\nlines"]


def _jsonl(path: Path, field: str) -> None:
    path.write_text("".join(json.dumps({"id": 1, field: text}) + "\n" for text in TEXTS), encoding="utf-8")


def _csv(path: Path, field: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", field])
        writer.writerows([1, text] for text in TEXTS)


def _parquet(path: Path, field: str) -> None:
    pq.write_table(pa.table({"id": [1] * len(TEXTS), field: TEXTS}), path)


WRITERS: dict[str, Callable[[Path, str], None]] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}


@pytest.mark.parametrize("suffix", sorted(WRITERS))
@pytest.mark.parametrize("zipped", [False, True])
def test_inputs_reads_every_format_plain_and_gzipped(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"inputs{suffix}"
    WRITERS[suffix](path, "prompt")
    if zipped:
        zipped_path = path.with_name(path.name + ".gz")
        zipped_path.write_bytes(gzip.compress(path.read_bytes()))
        path = zipped_path
    assert list(read_inputs(path)) == TEXTS
    assert list(read_inputs(path, field="prompt")) == TEXTS


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_inputs_reads_text_line_by_line(tmp_path: Path, name: str) -> None:
    data = b"\xef\xbb\xbfa red fox\r\n  a blue jay  \nlast one"
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert list(read_inputs(tmp_path / name)) == ["a red fox", "a blue jay", "last one"]


def test_inputs_prefers_the_default_fields_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"caption": "c", "input": "i", "prompt": "p"}\n')
    assert list(read_inputs(path)) == ["i"]
    assert list(read_inputs(path, field="caption")) == ["c"]


def test_inputs_counts_blank_and_cut_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one fox\n\n   \n" + "word " * 100_000 + "\n")
    counts: Counter[str] = Counter()
    texts = list(read_inputs(path, counts=counts))
    assert [count_words(text) for text in texts] == [2, MAX_INPUT_WORDS]
    assert counts == {"blank": 2, "cut": 1}
    with pytest.warns(UserWarning, match="blank|cut") as told:
        list(read_inputs(path))
    assert len(told) == 2


def test_inputs_is_read_lazily(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\nnot json\n')
    stream = read_inputs(path)
    assert next(stream) == "fine"
    with pytest.raises(InputError, match="line 2"):
        next(stream)


BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.jsonl", b"", "is empty"),
    "all_blank": ("a.txt", b"\n  \n", "all 2 of them are blank"),
    "empty_txt": ("a.txt", b"", "is empty"),
    "empty_csv": ("a.csv", b"", "is empty"),
    "binary": ("a.txt", b"text\n\x00\x01\x02\n", "line 2: holds binary"),
    "utf16": ("a.txt", "a fox".encode("utf-16"), "UTF-16"),
    "latin1": ("a.jsonl", b'{"text": "fine"}\n{"text": "caf\xe9"}\n', "line 2: byte 14 is not UTF-8"),
    "long_number": ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}\n", "line 1: 'text' holds .* of 5,000 digits"),
    "twice_jsonl": (
        "a.jsonl",
        b'{"text": "x"}\n{"n": 1, "text": "x", "n": 2}\n',
        "line 2: the key 'n' stands there twice",
    ),
    "twice_json": ("a.json", b'[{"text": "x", "text": "y"}]', "item 1: the key 'text' stands there twice"),
    "twice_csv": ("a.csv", b"n,text,n\n1,x,2\n", "a.csv: the column 'n' stands there twice"),
    "twice_tsv": ("a.tsv.gz", gzip.compress(b"text\ttext\nx\ty\n"), "the column 'text' stands there twice"),
    "object_json": ("a.json", b'{"text": "x"}', "must be a list of objects"),
    "deep_json": ("a.json", b"[" * 100_000, "nested too deeply"),
    "half_jsonl": ("a.jsonl", b'{"text": "fine"}\n{"text": "ha', "line 2: .*half-written"),
    "half_csv": ("a.csv", b'id,text\n1,fine\n2,"ha', "line 3: "),
    "short_csv": ("a.csv", b"id,text\n1,fine\n2\n", "line 3: has fewer cells"),
    "long_csv": ("a.csv", b"id,text\n1,fine, or not\n", "line 2: has more cells"),
    "half_gzip": ("a.txt.gz", gzip.compress(b"a line of text\n" * 5000)[:-20], "cut off or damaged"),
    "no_gzip": ("a.txt.gz", b"plain text", "a.txt.gz"),
    "half_parquet": ("a.parquet", b"PAR1 and then nothing", "not a whole Parquet file"),
    "no_field": ("a.jsonl", b'{"txt": "x", "n": 1}\n', "found: txt, n"),
    "field_gone": ("a.jsonl", b'{"text": "x"}\n{"txt": "x"}\n', "line 2: none of the fields"),
    "no_object": ("a.jsonl", b'["text"]\n', "line 1: a row must be a JSON object"),
    "no_text": ("a.jsonl", b'{"text": 5}\n', "line 1: field 'text' must be text, found '5'"),
    "surrogate": ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: .*surrogate"),
    "unknown_format": ("a.docx", b"x", "cannot tell the format"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_inputs_refuses_bad_files_with_one_line(tmp_path: Path, case: str) -> None:
    name, data, message = BAD[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        list(read_inputs(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_inputs_refuses_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        list(read_inputs(tmp_path / "no.jsonl"))
    for name in ("folder.txt", "folder"):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=f"{name}: is a folder and cannot be read: name a file in it"):
            list(read_inputs(tmp_path / name))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="is a pipe or a device and cannot be read again"):
        list(read_inputs(tmp_path / "pipe.jsonl"))


def test_inputs_suggests_the_field_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("caption,id\nfox,1\n")
    with pytest.raises(InputError, match=r"no field 'captoin' \(did you mean caption\?\); found: caption, id"):
        list(read_inputs(path, field="captoin"))
    (tmp_path / "a.txt").write_text("fox\n")
    with pytest.raises(InputError, match=r"a \.txt file has no fields"):
        list(read_inputs(tmp_path / "a.txt", field="caption"))


def test_inputs_references_may_begin_after_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fox"}\n{"text": "boat", "reference": "a boat at sea"}\n')
    assert read_references(path) == {input_id("boat"): "a boat at sea"}
    for suffix in (".csv", ".parquet"):
        WRITERS[suffix](tmp_path / f"b{suffix}", "text")
        assert read_references(tmp_path / f"b{suffix}") == {}


def test_inputs_identity_ignores_case_width_and_spacing() -> None:
    assert input_id("A red  FOX\n") == input_id("a red fox") == input_id("\uff41 red fox")
    assert input_id("a red fox") != input_id("a red fax")
    assert input_id("a red fox") == "2a04f97557148e82", "ids are for ever: runs of earlier versions hold them"


@settings(deadline=None)
@given(st.text())
def test_inputs_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_inputs_normalise_is_idempotent_for_every_character() -> None:
    every = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    changed = {char: folded for char in every if (folded := normalise(char)) != char}
    assert {char for char, folded in changed.items() if normalise(folded) != folded} == set()


def test_inputs_split_is_90_5_5_and_fixed() -> None:
    ids = [input_id(f"input {number}") for number in range(20_000)]
    shares = Counter(map(split_of, ids))
    assert shares["train"] == pytest.approx(18_000, abs=250)
    assert shares["validation"] == pytest.approx(1_000, abs=150)
    assert shares["test"] == pytest.approx(1_000, abs=150)
    assert [split_of(identity) for identity in ids] == [split_of(identity) for identity in ids]


@settings(deadline=None)
@given(st.integers(min_value=MAX_INPUT_WORDS - 2, max_value=MAX_INPUT_WORDS + 2), st.sampled_from([" ", ", ", "\n"]))
def test_inputs_cut_leaves_at_most_the_limit(words: int, separator: str) -> None:
    text = separator.join(["word"] * words) + "."
    cut, was_cut = cut_input(text)
    assert was_cut == (words > MAX_INPUT_WORDS)
    assert count_words(cut) == min(words, MAX_INPUT_WORDS)
    assert cut == text or was_cut


def test_inputs_cut_one_endless_word_and_count_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 2_000_000}) + "\n" + json.dumps({"text": "y" * MAX_INPUT_CHARACTERS}))
    counts: Counter[str] = Counter()
    assert list(map(len, read_inputs(path, counts=counts))) == [MAX_INPUT_CHARACTERS] * 2
    assert counts["cut"] == 1


def test_inputs_reads_real_data(shared_data: Path) -> None:
    assert sum(1 for _ in read_inputs(shared_data / "inputs.jsonl.gz")) == 49_412
    assert next(read_inputs(shared_data / "t2i_prompts.jsonl.gz"))
