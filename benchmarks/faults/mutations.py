"""Malformed files out of valid ones: of bytes, of the values in JSON and YAML, of tables, and of what a path is.

Every function takes a random generator and gives the same for the same one. What a mutation did is told in a few words.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DEEP: Any = None
for _ in range(100):  # deeper than anything sensible; PyYAML writes no more than about 300
    DEEP = [DEEP]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**64), 10**400, 0.0, -0.0, 0.5, 1e308, 1e-320, float("nan"),
    float("inf"), float("-inf"), "", " ", "\n", "x", "0.5", "nan", "1e999", "\x00", "\ud800", "\u202e", "﷽",
    "٣", "\U0001f468\u200d\U0001f469", "../../etc/passwd", "{input", "{input} {0} {x.y}", "%s%n",
    "<|endoftext|>", "<script>alert(1)</script>", "null", "a" * 300, "word " * 3000, [], [None], ["x"], [[]],
    [1, "x"], {}, {"x": 1}, {"": {}}, {"text": "x"}, DEEP, b"\xff\xfe",
)  # fmt: skip
"""What stands where something else should."""

TEXTS = (
    "!!python/object/apply:os.system ['true']\n", "a: &a [*a]\n", "&a [*a]\n", "? [1, 2]\n: x\n",
    "1: x\nnull: y\n", "- a\n- b\n", "x: 1\nx: 2\n", "\ta: 1\n", "a: {b: [c\n", "---\na: 1\n---\nb: 2\n",
    "%YAML 9.9\n---\na: 1\n", "[" * 3000, "{" * 3000, "{\"a\":" * 3000, "- " * 3000 + "x", "'", "\"\\ud800\"",
    "a: 2024-01-01\n", "a: 0o7_7\n", "a: !!binary //79\n",
    "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: &d [*c, *c, *c]\ne: &e [*d, *d, *d]\nf: [*e, *e]\n",
    "<<: *x\n", "<<: {schema: 1}\n", "a: .nan\nb: .inf\n", "x" * 200_000, "\n" * 5000, "null", "[]", "{}", "0",
    "\"x\"", "\ufeff", "\x00", "text,text\nx,y\n", "text\n\"unclosed\n", "text\n" + "x" * 140_000 + "\n",
    "a,b\n1\n1,2,3\n", "sep=;\ntext;x\n", "\r\r\r", '{"text": "a"} {"text": "b"}\n', '{"text": "a",}\n',
    '{"text": NaN}\n', '{"text": "a", "text": "b"}\n', "[1, 2\n", '{"text": "\\ud83d"}\n',
)  # fmt: skip
"""Whole files that are hard on readers."""


def of_bytes(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Change the bytes of a file, without a look at what they say."""
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    flipped = bytearray(data)
    for _ in range(rng.choice((1, 1, 5, 40)) if data else 0):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    text = data.decode("utf-8", errors="replace")
    choices: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "cut short": lambda: data[:at],
        "its begin missing": lambda: data[at:],
        "a piece missing": lambda: data[:at] + data[end:],
        "a piece twice": lambda: data[:end] + data[at:],
        "bits flipped": lambda: bytes(flipped),
        "a NUL": lambda: data[:at] + b"\0" + data[at:],
        "NULs at the end": lambda: data + bytes(4096),
        "no UTF-8": lambda: data[:at] + rng.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\x80")) + data[at:],
        "random bytes": lambda: rng.randbytes(rng.choice((1, 16, 5000))),
        "a byte order mark": lambda: b"\xef\xbb\xbf" + data,
        "UTF-16": lambda: text.encode("utf-16"),
        "UTF-32": lambda: text.encode("utf-32"),
        "Latin-1": lambda: text.encode("latin-1", errors="replace"),
        "CRLF": lambda: data.replace(b"\n", b"\r\n"),
        "CR": lambda: data.replace(b"\n", b"\r"),
        "one line": lambda: data.replace(b"\n", b" "),
        "packed": lambda: gzip.compress(data),
        "packed and cut": lambda: gzip.compress(data)[: rng.randrange(1, 60)],
        "huge numbers": lambda: data.replace(b"1", b"1" + b"0" * rng.choice((5, 30, 400))),
        "negative numbers": lambda: data.replace(b": ", b": -"),
        "another text": lambda: rng.choice(TEXTS).encode("utf-8", errors="surrogatepass"),
        "twice": lambda: data + data,
    }
    what = rng.choice(list(choices))
    return what, choices[what]()


def of_value(value: Any, rng: random.Random) -> tuple[str, Any]:
    """Change one node of a JSON or YAML document: its type, its key, its place; 1 to 3 times."""
    root = [copy.deepcopy(value)]
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        nodes: list[tuple[Any, Any]] = []
        stack: list[Any] = [root]
        while stack:
            box = stack.pop()
            for key in list(box) if isinstance(box, dict) else range(len(box)):
                nodes.append((box, key))
                if isinstance(box[key], (dict, list)) and box[key] is not DEEP:
                    stack.append(box[key])
        box, key = rng.choice(nodes)
        what = rng.choice(
            ("value", "value", "value", "missing", "key", "text", "nested", "swapped", "unknown", "repeated")
        )
        done.append(f"{what} at {str(key)[:30]!r}")
        if what == "value" or box is root:
            box[key] = copy.copy(rng.choice(VALUES))
        elif what == "missing":
            del box[key]
        elif what == "key" and isinstance(box, dict):
            box[rng.choice(("", "x", " ", "name", "\x00", "schema", key.upper() if isinstance(key, str) else "x"))] = (
                box.pop(key)
            )
        elif what == "text":
            box[key] = str(box[key])
        elif what == "nested":
            box[key] = rng.choice(([box[key]], {"value": box[key]}, {str(key): box[key]}))
        elif what == "swapped":
            other, its = rng.choice(nodes)
            if its in range(len(other)) if isinstance(other, list) else its in other:
                box[key], other[its] = other[its], box[key] if other[its] is not box else None
        elif what == "unknown" and isinstance(box, dict):
            box[rng.choice(("x", "lenght", "Schema", "extra"))] = rng.choice(VALUES)
        elif what == "repeated" and isinstance(box, list):
            box.extend([box[key]] * rng.choice((1, 50)))
    return ", ".join(done), root[0]


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, default=lambda odd: odd.decode("latin-1"))
    return text.encode("utf-8", errors="surrogatepass")


def of_json(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    what, value = of_value(json.loads(data), rng)
    return what, _json(value)


def of_jsonl(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    lines = data.splitlines()
    number = rng.randrange(len(lines))
    what, value = of_value(json.loads(lines[number]), rng)
    lines[number] = _json(value)
    return f"line {number + 1}: {what}", b"\n".join(lines) + b"\n"


def of_yaml(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    what, value = of_value(yaml.safe_load(data), rng)
    return what, yaml.safe_dump(value, allow_unicode=True).encode("utf-8", errors="surrogatepass")


def of_safetensors(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Change the header: names, types, shapes, and the places of the weights."""
    size = int.from_bytes(data[:8], "little")
    what, header = of_value(json.loads(data[8 : 8 + size]), rng)
    written = _json(header)
    said = rng.choice((len(written), len(written), len(written), 2**62, 0))
    return f"header: {what}", said.to_bytes(8, "little") + written + data[8 + size :]


def of_parquet(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    table = pq.read_table(io.BytesIO(data))
    name = rng.choice(table.column_names)
    at, rows = table.column_names.index(name), table.num_rows
    columns: dict[str, Callable[[], pa.Array]] = {
        "null": lambda: pa.nulls(rows),
        "null texts": lambda: pa.array([None] * rows, pa.string()),
        "numbers": lambda: pa.array([rng.choice((0, -1, 2**62)) for _ in range(rows)]),
        "floats": lambda: pa.array([rng.choice((0.0, float("nan"), float("inf"), -1e300)) for _ in range(rows)]),
        "truths": lambda: pa.array([True] * rows),
        "bytes": lambda: pa.array([b"\xff\xfe"] * rows),
        "lists": lambda: pa.array([["x"]] * rows),
        "mixed lists": lambda: pa.array([[{"role": "user", "content": None}]] * rows),
        "structs": lambda: pa.array([{"relevance": "x", "": 1}] * rows),
        "dictionary": lambda: pa.array(["x", *["y"] * (rows - 1)]).dictionary_encode(),
        "times": lambda: pa.array([0] * rows, pa.timestamp("us")),
        "decimals": lambda: pa.array([1] * rows).cast(pa.decimal128(38, 3)),
        "texts": lambda: pa.array([rng.choice(("", " ", "x", "\x00", "null", "0.5")) for _ in range(rows)]),
        "large texts": lambda: pa.array(["x"] * rows, pa.large_string()),
    }
    shapes: dict[str, Callable[[], pa.Table]] = {
        "a column missing": lambda: table.remove_column(at),
        "a column renamed": lambda: table.rename_columns(
            ["x" if column == name else column for column in table.column_names]
        ),
        "no row": lambda: table.slice(0, 0),
        "one row": lambda: table.slice(0, 1),
        "rows twice": lambda: pa.concat_tables([table, table]),
        "no column": lambda: pa.table({}),
        "a column twice": lambda: table.append_column(name, table.column(name)),
        "columns in another order": lambda: table.select(table.column_names[::-1]),
        "other metadata": lambda: table.replace_schema_metadata({"schema": "99", "udrl": "\x00", "huggingface": "{"}),
    }
    if rng.random() < 0.4:
        what = rng.choice(list(shapes))
        changed = shapes[what]()
    else:
        kind = rng.choice(list(columns))
        what, changed = f"{name} as {kind}", table.set_column(at, name, columns[kind]())
    sink = io.BytesIO()
    pq.write_table(changed, sink)
    return what, sink.getvalue()


def of_path(path: Path, rng: random.Random) -> str:
    """Put something at ``path`` that is no file like the one before."""
    data = path.read_bytes()
    path.unlink()
    what = rng.choice(
        (
            "missing",
            "a folder",
            "a loop of links",
            "a link to nothing",
            "a pipe",
            "a socket",
            "a device",
            "a full folder",
            "unreadable",
        )
    )
    if what == "a folder":
        path.mkdir()
    elif what == "a full folder":
        path.mkdir()
        (path / path.name).write_bytes(data)
    elif what == "a loop of links":
        path.symlink_to(path.name)
    elif what == "a link to nothing":
        path.symlink_to("nowhere")
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a socket":
        with socket.socket(socket.AF_UNIX) as end:
            here = Path.cwd()
            os.chdir(path.parent)
            end.bind(path.name)
            os.chdir(here)
    elif what == "a device":
        path.symlink_to("/dev/null")
    elif what == "unreadable":
        path.write_bytes(data)
        path.chmod(0)
    return what


STRUCTURED = {
    ".json": of_json,
    ".jsonl": of_jsonl,
    ".yaml": of_yaml,
    ".parquet": of_parquet,
    ".safetensors": of_safetensors,
}


def mutate(path: Path, rng: random.Random) -> str:
    """Replace the file at ``path`` by a malformed one, and return what is wrong with it."""
    roll = rng.random()
    if roll < 0.06:
        return of_path(path, rng)
    data = path.read_bytes()
    packed = path.suffix == ".gz"
    suffix = Path(path.stem).suffix if packed else path.suffix
    structured = STRUCTURED.get(suffix)
    inner = gzip.decompress(data) if packed and roll < 0.7 else data
    readable = structured is not None and (inner is not data or not packed)
    what, changed = structured(inner, rng) if structured and readable and roll > 0.4 else of_bytes(inner, rng)
    if inner is not data:
        changed = gzip.compress(changed, mtime=0)
    path.unlink()  # never written through a link to the valid file
    path.write_bytes(changed)
    return what
