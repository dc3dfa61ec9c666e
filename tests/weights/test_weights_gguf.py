"""GGUF files: what each type becomes, and what is refused, in one sentence, before a weight is read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_gguf
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from tiny_checkpoints import TEXTS

from udrl.errors import MissingDependency, UdrlError, WeightsError
from udrl.teacher.backends.conversation import conversation_ids
from udrl.tokenizer import decode, encode, text_only
from udrl.training.admission import admit
from udrl.weights import gguf_checkpoint
from udrl.weights.gguf_file import check_head, read_head
from udrl.weights.sources import find_here

KINDS = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_1, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UDRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def checkpoint(file: Path) -> Path:
    found = find_here(str(file))
    assert found is not None
    return found.folder()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_gguf_of_every_type_becomes_the_weights_that_it_holds(kind: Kind, tmp_path: Path) -> None:
    folder = checkpoint(tiny_gguf.write(tmp_path / "tiny.gguf", kind))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    state, expected = model.state_dict(), tiny_gguf.expected(kind)
    assert state.keys() == {*expected, "lm_head.weight"}
    assert all(torch.equal(state[name], values) for name, values in expected.items())
    assert torch.equal(state["lm_head.weight"], expected["model.embed_tokens.weight"])
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings) == (4, 2, 256)
    assert (config.eos_token_id, config.dtype, model.generation_config.eos_token_id) == (2, torch.float32, 2)


def test_gguf_is_read_once_and_its_checkpoint_kept_by_its_hash(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tiny_gguf.write(tmp_path / "tiny.gguf"))
    assert folder.parent == own_cache / "weights"
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    monkeypatch.setattr(gguf_checkpoint, "_convert", None)
    (tmp_path / "tiny.gguf").rename(tmp_path / "other.gguf")
    assert checkpoint(tmp_path / "other.gguf") == folder, "another name, the same weights"
    tiny_gguf.write(tmp_path / "tiny.gguf", Kind.Q8_0)
    with pytest.raises(TypeError):
        checkpoint(tmp_path / "tiny.gguf")
    assert not [path for path in folder.parent.iterdir() if path.is_dir() and path != folder], "half of it is nothing"


def test_gguf_tokenizer_is_the_models_own(tmp_path: Path) -> None:
    _, tokenizer = admit(str(tiny_gguf.write(tmp_path / "tiny.gguf")))
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=tiny_gguf.backend())
    texts = [*TEXTS, "two  spaces  1 and 12  3", "  lead", "tail  ", "a\n\n\tb", "<|im_end|> typed", "東京 🦊 é", ""]
    assert encode(tokenizer, texts) == encode(text_only(own), texts)
    assert [decode(tokenizer, ids) for ids in encode(tokenizer, texts)] == texts
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (2, 2, 1)
    assert 2 not in encode(tokenizer, ["<|im_end|> typed"])[0]
    assert len(tokenizer) == tiny_gguf.TOKENS
    fresh = transformers.AutoTokenizer.from_pretrained(checkpoint(tmp_path / "tiny.gguf"))
    ids = conversation_ids(fresh, [{"role": "user", "content": "a <|im_end|> b"}], {})
    assert [ids.count(1), ids.count(2)] == [1, 1], "the template's marks are tokens, a user's are text"


# -- what is refused -------------------------------------------------------------------------------------------------


def spoil(file: Path, change: Callable[[bytearray], object]) -> Path:
    data = bytearray(file.read_bytes())
    file.write_bytes(change(data) or data)  # type: ignore[arg-type]
    return file


NORM, MATRIX = "output_norm.weight", "blk.1.ffn_up.weight"
NAN, INF = float("nan"), float("inf")
WRITE = tiny_gguf.write
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a text": (lambda f: f.write_text("Once upon a time"), r"is no GGUF file: it begins with b'Once', not b'GGUF'; do"),
    "a pointer": (lambda f: f.write_text("version https://git-lfs.github.com/spec/v1"), r"begins with b'vers', not b'"),
    "nothing": (lambda f: f.write_bytes(b""), r"is not whole: it ends in its header, after 0 bytes; download it again"),
    "half a header": (lambda f: spoil(WRITE(f), lambda d: d[:15]), r"not whole: it ends in its header, after 15 bytes"),
    "half the facts": (lambda f: spoil(WRITE(f), lambda d: d[:999]), r"it ends in its metadata, after 999 bytes; down"),
    "half the weights": (lambda f: spoil(WRITE(f), lambda d: d[:-40]), r"is not whole: it has [\d,]+ of [\d,]+ bytes"),
    "version 1": (lambda f: spoil(WRITE(f), lambda d: d.__setitem__(4, 1)), r"is of version 1, and versions 2 and 3 i"),
    "big-endian": (
        lambda f: spoil(WRITE(f), lambda d: d.__setitem__(slice(4, 8), struct.pack(">I", 3))),
        r"is of version 50331648, and versions 2 and 3 in little-endian order can be read: convert it",
    ),
    "a type": (lambda f: WRITE(f, raw=Kind.Q8_1), r"holds weights of the type Q8_1 \(token_embd.weight\), which canno"),
    "an architecture": (
        lambda f: WRITE(f, arch="rwkv6"),
        r"\(architecture rwkv6\) cannot be read by transformers \(GGUF model with architecture rwkv6 is not supported",
    ),
    "no architecture": (
        lambda f: spoil(WRITE(f), lambda d: d.replace(b"general.architecture", b"general.architecturE")),
        r"names no architecture: take the file of a language model",
    ),
    "no tokenizer": (lambda f: WRITE(f, without=("tokenizer.ggml.tokens",)), r"holds no tokenizer: take one with weig"),
    "no end": (lambda f: WRITE(f, without=("tokenizer.ggml.eos_token_id",)), r"names no end token \(tokenizer.ggml.eo"),
    "an end beyond": (lambda f: WRITE(f, facts={"tokenizer.ggml.eos_token_id": 300}), r"names no end token \(tokenize"),
    "few rows": (lambda f: WRITE(f, rows=280), r"has 300 tokens and its embedding 280 rows: the two belong to differe"),
    "no embedding": (lambda f: WRITE(f, without=("token_embd.weight",)), r"holds no embedding \(token_embd.weight\):"),
    "a weight less": (lambda f: WRITE(f, without=(MATRIX,)), r"\(it lacks weights, such as model.layers.1.mlp.up_proj"),
    "a part": (lambda f: WRITE(f, facts={"split.count": 3}), r"is one of 3 parts of a model: join them with llama-ggu"),
    "parts in a list": (lambda f: WRITE(f, facts={"split.count": [1, 2]}), r"holds the number of parts \[1, 2\]"),
    "a number for tokens": (lambda f: WRITE(f, facts={"tokenizer.ggml.tokens": 3}), r"holds no tokenizer: take"),
    "scaled": (lambda f: WRITE(f, facts={"llama.rope.scaling.type": "yarn"}), r"scales its positions \(rope scaling\)"),
    "split otherwise": (
        lambda f: WRITE(f, facts={"tokenizer.ggml.pre": "chameleon"}),
        r"splits texts in a way that is not known here \(tokenizer.ggml.pre is 'chameleon'\): take the model's safet",
    ),
    "no number": (lambda f: WRITE(f, spoiled={NORM: NAN}), r"are not finite \(in model.norm.weight\): copy or train i"),
    "infinite": (lambda f: WRITE(f, Kind.F16, spoiled={MATRIX: INF}), r"not finite \(in model.layers.1.mlp.up_proj.we"),
    "an infinite scale": (lambda f: WRITE(f, Kind.Q8_0, spoiled={MATRIX: 1e9}), r"not finite \(in model.layers.1.mlp."),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # numpy, of what is spoiled
def test_gguf_refuses_in_one_sentence_and_keeps_nothing(what: str, tmp_path: Path, own_cache: Path) -> None:
    spoiled, message = REFUSED[what]
    file = tmp_path / "tiny.gguf"
    spoiled(file)
    with pytest.raises(WeightsError, match=message) as refused:
        admit(str(file))
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value)
    assert refused.value.exit_code == 1
    assert not [path for path in own_cache.rglob("*") if path.is_dir() and path.name != "weights"]


def test_gguf_that_is_cut_anywhere_is_not_whole(tmp_path: Path) -> None:
    whole = tiny_gguf.write(tmp_path / "tiny.gguf").read_bytes()
    file = tmp_path / "cut.gguf"
    for length in [*range(0, 300, 7), *range(300, len(whole), len(whole) // 40), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="is not whole"):
            check_head(read_head(file, "x"), "x")


def test_gguf_with_nonsense_anywhere_in_its_head_is_one_of_udrls_errors_or_read(tmp_path: Path) -> None:
    whole = tiny_gguf.write(tmp_path / "tiny.gguf").read_bytes()
    file, told = tmp_path / "other.gguf", 0
    for place in range(4, 1200, 5):
        file.write_bytes(whole[:place] + b"\xff\xff\xff" + whole[place + 3 :])
        try:
            check_head(read_head(file, "x"), "x")
        except UdrlError:
            told += 1
    assert told > 100


def test_gguf_without_its_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tiny_gguf.write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_checkpoint, "is_installed", lambda package: package != "gguf")
    with pytest.raises(MissingDependency, match=r"tiny.gguf' needs its package: pip install 'udrl\[gguf\]'"):
        checkpoint(file)


def test_gguf_that_the_disk_does_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tiny_gguf.write(tmp_path / "tiny.gguf")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100_000}))
    with pytest.raises(WeightsError, match=r"take 0.0 GB while they are read, and .* free: set UDRL_CACHE"):
        checkpoint(file)
