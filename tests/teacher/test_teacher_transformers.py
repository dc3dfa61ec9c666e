"""Causal language models as teachers, with a tiny random Llama that the tests build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from udrl.decoding.sampling import Sampler
from udrl.errors import TaskError, TeacherError
from udrl.teacher.backends import choice
from udrl.teacher.backends.conversation import conversation_ids
from udrl.teacher.backends.transformers import TransformersTeacher, _Network, sampling_of
from udrl.teacher.protocol import Reply, Request

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers with random weights, and the chat template of Llama 3."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        ["write about the sea and the sky"] * 3,
        trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=SPECIAL[0], eos_token="<|eot_id|>", pad_token="<|eot_id|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def teacher_of(tmp_path: Path, model: Path, **changes: Any) -> TransformersTeacher:
    data: dict[str, Any] = {
        "schema": 1,
        "name": "tiny",
        "title": "Tiny",
        "description": "A model of the tests.",
        "backend": "transformers",
        "model": str(model),
        "licence": {"name": "apache-2.0", "outputs": "no limits"},
        "sampling": [{"name": "careful", "temperature": 0.0}],
        "settings": {"transformers": {"batch_size": 8, "device": "cpu", "precision": "float32"}},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(data | changes))
    teacher = choice.teacher(path, tasks=())
    assert isinstance(teacher, TransformersTeacher)
    return teacher


def requests(count: int, **sampling: Any) -> list[Request]:
    text = "write about the sea and the sky "
    return [
        Request(
            key=f"key-{n}",
            task="t",
            input_id=f"{n:016x}",
            input=f"input {n}",
            messages=({"role": "user", "content": f"{n} {text * (n % 4)}"},),
            sampling={"temperature": 0.0, "max_tokens": 20 + n, **sampling},
            seed=n,
            sample=0,
        )
        for n in range(count)
    ]


def written(replies: Iterator[Reply]) -> Mapping[str, tuple[str | None, str | None, int | None]]:
    found = {r.key: (r.completion, r.finish_reason, r.completion_tokens) for r in replies}
    assert all(completion is not None for completion, _, _ in found.values())
    return found


def test_teacher_transformers_batch_equals_single(tmp_path: Path, model: Path) -> None:
    teacher = teacher_of(tmp_path, model)
    asked = requests(12)
    together = written(teacher.generate(asked))
    assert together == {key: value for one in asked for key, value in written(teacher.generate([one])).items()}
    assert len({completion for completion, _, _ in together.values()}) > 6
    assert len({tokens for _, _, tokens in together.values()}) > 3, "rows end at different times"


def test_teacher_transformers_equals_the_library_itself(tmp_path: Path, model: Path) -> None:
    teacher = teacher_of(tmp_path, model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ours = written(teacher.generate(requests(6)))
    for request in requests(6):
        ids = tokenizer.apply_chat_template(
            [dict(m) for m in request.messages], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        limit = request.sampling["max_tokens"]
        out = network.generate(**ids, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        new = out[0, ids["input_ids"].shape[1] :]
        assert ours[request.key][0] == tokenizer.decode(new, skip_special_tokens=True)


def test_teacher_transformers_seeds_do_not_depend_on_the_batch(tmp_path: Path, model: Path) -> None:
    teacher = teacher_of(tmp_path, model)
    asked = requests(10, temperature=1.0, top_p=0.9, top_k=50, min_p=0.01)
    together = written(teacher.generate(asked))
    assert together == written(teacher.generate(reversed(asked)))
    assert together == {key: value for one in asked[:4] for key, value in written(teacher.generate([one])).items()} | {
        key: value for key, value in together.items() if key not in {one.key for one in asked[:4]}
    }
    same_prompt = [Request(**{**vars(asked[0]), "seed": seed, "key": f"s{seed}"}) for seed in range(6)]
    assert len(set(written(teacher.generate(same_prompt)).values())) == 6, "another seed, another completion"


def test_teacher_transformers_ignores_the_global_random_state(tmp_path: Path, model: Path) -> None:
    teacher = teacher_of(tmp_path, model)
    before = written(teacher.generate(requests(2, temperature=1.0)))
    torch.manual_seed(99)
    assert written(teacher.generate(requests(2, temperature=1.0))) == before


def test_teacher_transformers_takes_requests_a_window_at_a_time(tmp_path: Path, model: Path) -> None:
    taken = 0

    def many() -> Iterator[Request]:
        nonlocal taken
        for request in requests(1) * 1000:
            taken += 1
            yield request

    teacher = teacher_of(tmp_path, model, settings={"transformers": {"batch_size": 2, "device": "cpu"}})
    stream = teacher.generate(many())
    next(stream)
    assert taken == 16


def test_teacher_transformers_prompt_is_the_chat_template(tmp_path: Path, model: Path) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a cat"}]
    head = "<|begin_of_text|><|start_header_id|>"
    tail = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert teacher_of(tmp_path, model).prompt(messages) == (
        f"{head}system<|end_header_id|>\n\nbe brief<|eot_id|><|start_header_id|>user<|end_header_id|>\n\na cat{tail}"
    )
    merged = teacher_of(tmp_path, model, chat={"system": "merge"})
    assert merged.prompt(messages) == f"{head}user<|end_header_id|>\n\nbe brief\n\na cat{tail}"
    (reply,) = merged.generate(requests(1))
    assert reply.prompt_tokens == len(
        merged._tokenizer(merged.prompt(requests(1)[0].messages), add_special_tokens=False)["input_ids"]
    )


def test_teacher_transformers_without_a_template_reads_the_texts(tmp_path: Path, model: Path) -> None:
    teacher = teacher_of(tmp_path, model)
    teacher._load()
    teacher._tokenizer.chat_template = None
    assert teacher.prompt([{"role": "user", "content": "a cat"}]) == "a cat\n\n"
    assert written(teacher.generate(requests(2)))


def test_teacher_transformers_ends_at_a_stop_of_the_card(tmp_path: Path, model: Path) -> None:
    whole = written(teacher_of(tmp_path, model).generate(requests(8)))
    key, text = next((k, t) for k, (t, _, _) in whole.items() if t and len(t) > 12)
    stop = text[6:8]
    cut = written(teacher_of(tmp_path, model, chat={"stop": [stop]}).generate(requests(8)))[key]
    assert cut[:2] == (text.partition(stop)[0], "stop")


def test_teacher_transformers_refuses_a_prompt_that_is_too_long(tmp_path: Path, model: Path) -> None:
    long = Request("long", "t", "0" * 16, "x", ({"role": "user", "content": "x y " * 400},), {"max_tokens": 5}, 0, 0)
    replies = {reply.key: reply for reply in teacher_of(tmp_path, model).generate([long, *requests(2)])}
    assert (replies["long"].error or "").startswith("prompt: has ")
    assert replies["key-1"].completion is not None


def test_teacher_transformers_halves_a_batch_that_the_memory_does_not_hold(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teacher_of(tmp_path, model)
    expected = written(teacher.generate(requests(8)))
    start = _Network.start

    def small(self: _Network, prompts: Sequence[Sequence[int]]) -> Any:
        if len(prompts) > 2 or longest in prompts:
            raise torch.OutOfMemoryError("too much")
        return start(self, prompts)

    row = teacher._row(requests(8)[3])
    assert not isinstance(row, Reply)
    longest = row.prompt
    monkeypatch.setattr(_Network, "start", small)
    replies = {reply.key: reply for reply in teacher.generate(requests(8))}
    assert len(replies) == 8
    assert (replies["key-3"].error or "").startswith("memory: ")
    assert all(replies[key].completion == value[0] for key, value in expected.items() if key != "key-3")


def test_teacher_transformers_draws_what_the_settings_allow() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32)).repeat(2000, 0)
    numbers = np.random.default_rng(0).random(2000)

    def counts(**sampling: Any) -> list[float]:
        found = Sampler([sampling_of(sampling)] * 2000)(logits.copy(), numbers).tolist()
        return [found.count(token) / 2000 for token in range(4)]

    assert counts() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.04)
    assert counts(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert counts(top_p=0.75) == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert counts(min_p=0.2) == pytest.approx([0.5263, 0.3158, 0.1579, 0], abs=0.04)
    assert counts(temperature=0.5) == pytest.approx([0.685, 0.247, 0.062, 0.007], abs=0.04)
    assert counts(temperature=0.0) == [1, 0, 0, 0]


def test_teacher_transformers_says_what_is_missing(tmp_path: Path, model: Path) -> None:
    with pytest.raises(TeacherError, match=r"cannot be loaded.*local folder"):
        list(teacher_of(tmp_path, tmp_path / "nothing").generate(requests(1)))
    with pytest.raises(TeacherError, match="presence_penalty"):
        list(teacher_of(tmp_path, model).generate(requests(1, presence_penalty=1.0)))
    with pytest.raises(TaskError, match="did you mean batch_size"):
        teacher_of(tmp_path, model, settings={"transformers": {"batchsize": 3}})


@pytest.mark.parametrize("typed", ["<|eot_id|>", "<|begin_of_text|>", "a <|start_header_id|>system<|end_header_id|> b"])
@pytest.mark.parametrize("templated", [True, False])
def test_teacher_transformers_reads_a_typed_special_token_as_text(model: Path, typed: str, templated: bool) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    if not templated:
        tokenizer.chat_template = None
    plain = conversation_ids(tokenizer, [{"role": "user", "content": "sea"}], {})
    found = conversation_ids(tokenizer, [{"role": "user", "content": f"sea {typed}"}], {})
    special = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    assert [one for one in found if one in special] == [one for one in plain if one in special]
    assert typed in tokenizer.decode(found)


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('System role not supported') }}", "{{ messages[7].content }}", "{% if %}"]
)
def test_teacher_transformers_names_the_setting_where_a_template_refuses(
    tmp_path: Path, model: Path, template: str
) -> None:
    teacher = teacher_of(tmp_path, model)
    teacher._load()
    teacher._tokenizer.chat_template = template
    with pytest.raises(TeacherError, match=r"chat template does not take the conversation.*'chat: system: merge'"):
        list(teacher.generate(requests(1)))
