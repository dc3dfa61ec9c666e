"""The ledger: append-only, whole lines or none, and what a key stands for."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_records import response

from udrl.data.index import LedgerIndex
from udrl.data.ledger import FIELDS, Ledger, LedgerRecord, request_key
from udrl.data.survey import KeySet, survey
from udrl.errors import RunError


def record(number: int, **changes: Any) -> LedgerRecord:
    text = f"input {number // 4}"
    told = {"prompt_tokens": 3, "completion_tokens": 5, "started": 1.5, "seconds": 0.25}
    asked = {"key": f"{number:032x}", "messages": ({"role": "user", "content": f"Write on: {text}"},), "seed": number}
    made = response("text-to-image", text, number % 4, f"a completion – number {number}\nin two lines")
    return replace(made, **{**asked, **told, **changes})


def as_read(written: LedgerRecord) -> LedgerRecord:
    return replace(written, messages=list(written.messages))


def test_ledger_returns_what_was_appended(tmp_path: Path) -> None:
    records = [record(number) for number in range(10)]
    with Ledger(tmp_path / "ledger") as ledger:
        for item in records[:6]:
            ledger.append(item)
    with Ledger(tmp_path / "ledger") as ledger:
        for item in records[6:]:
            ledger.append(item)
        assert list(ledger) == [as_read(item) for item in records]
        assert [ledger.read(place) for place, _ in ledger.entries()] == [as_read(item) for item in records]
    line = json.loads((tmp_path / "ledger" / "part-00000.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert tuple(line) == FIELDS


def test_ledger_of_a_new_run_is_empty(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "no")
    assert list(ledger) == []
    assert survey(ledger).responses == 0
    assert not (tmp_path / "no").exists()


def test_ledger_keys_by_status(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append(record(0))
        ledger.append(record(1, status="failed", error="timed out", completion=None))
        ledger.append(record(2, status="failed", error="timed out", completion=None))
        ledger.append(record(2, attempts=2))
        keys = [record(number).key for number in range(3)]
        found = survey(ledger)
    assert found.responses == 3
    assert [key in found.good for key in keys] == [True, False, True]
    assert [key in found.failed for key in keys] == [False, True, False], "what failed first and was good later is good"
    assert record(3).key not in found.good
    usage = found.usage["builtin", "text-to-image"]
    assert (usage.good, usage.failed, usage.counted, usage.prompt_tokens, usage.completion_tokens) == (2, 2, 2, 12, 20)


def test_ledger_begins_a_new_shard_at_its_size(tmp_path: Path) -> None:
    records = [record(number) for number in range(20)]
    for start in (0, 10):
        with Ledger(tmp_path, shard_bytes=2000) as ledger:
            for item in records[start : start + 10]:
                ledger.append(item)
    shards = Ledger(tmp_path).shards()
    assert len(shards) > 3
    assert all(2000 <= shard.stat().st_size < 3000 for shard in shards[:-1])
    assert list(Ledger(tmp_path)) == [as_read(item) for item in records]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_ledger_cut_at_any_byte_keeps_every_whole_line_and_goes_on(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    with Ledger(folder) as ledger:
        for number in range(4):
            ledger.append(record(number))
    path = folder / "part-00000.jsonl"
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    torn = cut > 0 and content[cut - 1 : cut] != b"\n"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert list(Ledger(folder)) == [as_read(record(number)) for number in range(whole)]
    assert [str(warning.message) for warning in told] == (
        [f"{path}: the torn last line ({whole + 1}) is dropped"] if torn else []
    )
    with Ledger(folder) as ledger:
        for number in range(whole, 4):
            ledger.append(record(number))
    assert path.read_bytes() == content


def test_ledger_leaves_out_a_damaged_line_with_a_warning(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for number in range(3):
            ledger.append(record(number))
    path = tmp_path / "part-00000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\x00garbage\n" + lines[2])
    with pytest.warns(UserWarning, match="line 2: damaged"):
        assert [item.seed for item in Ledger(tmp_path)] == [0, 2]


def test_ledger_refuses_a_newer_schema_and_strange_lines(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.jsonl"
    path.write_text('{"schema": 2, "key": "x"}\n')
    with pytest.raises(RunError, match="line 1: has schema 2, this udrl reads up to 1"):
        survey(Ledger(tmp_path))
    path.write_text('{"schema": 1, "key": "x", "status": "ok"}\n')
    with pytest.raises(RunError, match=r"part-00000\.jsonl, line 1: has no field 'attempts': correct or remove"):
        list(Ledger(tmp_path))


GOOD_LINE = json.dumps({name: getattr(record(1), name) for name in FIELDS})
EDITED: dict[str, tuple[dict[str, Any], str]] = {
    "lacking": ({"sample": ...}, "has no field 'sample'"),
    "unknown": ({"note": "mine"}, "has the unknown field 'note'"),
    "text": ({"completion": 5}, "'completion' must be text or null, found 5"),
    "whole": ({"seed": "7"}, "'seed' must be a whole number, found '7'"),
    "truth": ({"sample": True}, "'sample' must be a whole number, found True"),
    "large": ({"seed": 1 << 70}, "'seed' must be a whole number, found"),
    "list": ({"messages": {}}, "'messages' must be a list"),
    "object": ({"sampling": "{}"}, "'sampling' must be an object"),
    "null": ({"input": None}, "'input' must be text, found None"),
    "number": ({"started": "now"}, "'started' must be a number"),
    "status": ({"status": "fine"}, "has the status 'fine' and a completion"),
    "empty": ({"completion": None}, "has the status 'ok' and no completion"),
    "surrogate": ({"input": "half \ud800"}, "holds half of a surrogate pair"),
}


@pytest.mark.parametrize("case", sorted(EDITED))
def test_ledger_names_the_line_that_somebody_edited(tmp_path: Path, case: str) -> None:
    changes, message = EDITED[case]
    data = {name: value for name, value in {**json.loads(GOOD_LINE), **changes}.items() if value is not ...}
    path = tmp_path / "part-00000.jsonl"
    path.write_text(f"{GOOD_LINE}\n{json.dumps(data)}\n")
    for reader in (survey, list, LedgerIndex):
        with pytest.raises(RunError, match=r"part-00000\.jsonl, line 2: ") as error:
            reader(Ledger(tmp_path))  # type: ignore[operator]
        assert message in str(error.value)


@pytest.mark.parametrize(
    "name", ["part-00000 (conflicted copy).jsonl", "part-00000.jsonl~", "part-1.jsonl", "part-00000.jsonl.gz", "a.txt"]
)
def test_ledger_refuses_files_that_are_none_of_its_own(tmp_path: Path, name: str) -> None:
    for mine in ("part-00000.jsonl", name):
        (tmp_path / mine).write_text(f"{GOOD_LINE}\n")
    (tmp_path / ".DS_Store").write_text("the system's")
    (tmp_path / "inventing").mkdir()
    for use in (survey, lambda ledger: ledger.append(record(1))):
        with pytest.raises(RunError, match="is no part of the ledger") as error:
            use(Ledger(tmp_path))  # type: ignore[operator]
        assert str(tmp_path / name) in str(error.value)
    (tmp_path / name).unlink()
    assert [one.seed for one in Ledger(tmp_path)] == [1]


def test_ledger_says_that_the_disk_is_full(tmp_path: Path) -> None:
    (tmp_path / "part-00000.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"the disk is full .* everything finished is kept"):
        Ledger(tmp_path).append(record(0))


def test_ledger_ends_with_a_whole_line_when_the_disk_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    calls = 0

    def half(file: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    with Ledger(tmp_path) as ledger:
        ledger.append(record(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(RunError, match="the disk is full"):
                ledger.append(record(1))
        assert list(ledger) == [as_read(record(0))]
        ledger.append(record(1))
    assert list(Ledger(tmp_path)) == [as_read(record(0)), as_read(record(1))]


def test_ledger_writes_utf8_whatever_a_server_sends(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.append(record(0, completion="half \ud800 a pair, \u2028 and \x00"))
    (tmp_path / "part-00000.jsonl").read_text(encoding="utf-8")
    assert next(iter(Ledger(tmp_path))).completion == "half ? a pair, \u2028 and \x00"


def key(**changes: Any) -> str:
    base: dict[str, Any] = {
        "model": "m",
        "revision": None,
        "engine_arguments": {"dtype": "bf16", "quantization": None},
        "messages": [{"role": "user", "content": "Write."}],
        "sampling": {"temperature": 0.7, "top_p": 0.9},
        "seed": 1,
    }
    return request_key(**{**base, **changes})


def test_ledger_key_depends_on_all_that_decides_and_on_nothing_else() -> None:
    changes: list[Mapping[str, Any]] = [
        {},
        {"model": "n"},
        {"revision": "r"},
        {"engine_arguments": {}},
        {"messages": [{"role": "user", "content": "Write!"}]},
        {"messages": [{"role": "system", "content": "Write."}]},
        {"sampling": {"temperature": 0.8, "top_p": 0.9}},
        {"seed": 2},
    ]
    assert len({key(**change) for change in changes}) == len(changes)
    assert key(sampling={"top_p": 0.9, "n": 4, "temperature": 0.7}) == key()
    assert key(engine_arguments={"quantization": None, "dtype": "bf16"}) == key()
    assert key() == "da9b8dee84f51d9476a7da3ae86ddb58", "keys are for ever: ledgers of earlier versions hold them"


def test_ledger_keys_take_eight_bytes_each() -> None:
    count = 50_000
    tracemalloc.start()
    try:
        keys = KeySet.of(f"{number:032x}" for number in range(count))
        _, peak = tracemalloc.get_traced_memory()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 8 * count + 4096, "eight bytes a key"
    assert peak < 60 * count
    assert len(keys) == count
    assert all(f"{number:032x}" in keys for number in range(0, count, 97))
    assert not any(f"{number:032x}" in keys for number in range(count, 2 * count, 97))
