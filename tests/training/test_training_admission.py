"""Checkpoints that others made: what is admitted, what is refused in one sentence, what ends their answers."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_checkpoints import END, FAMILIES, ROWS, TEXTS, byte_level, new_model, put
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import udrl
from udrl.architecture.packing import pack
from udrl.commands import LENGTH, Attribute, Command, CommandSpace
from udrl.decoding.sampling import Sampling
from udrl.errors import StudentError, WeightsError
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.student.student import Student
from udrl.teacher.synthesis.synth import synth
from udrl.tokenizer import encode, ends_among, text_only
from udrl.training.admission import admit, check_computation, warn_of_lost
from udrl.training.calibrate import recalibrate
from udrl.training.lora import add_lora, merge_lora
from udrl.training.train import train

TASK = "text-to-image"


def student_of(folder: Path) -> tuple[StudentModel, Any]:
    model, tokenizer = admit(str(folder))
    base = len(model.get_input_embeddings().weight)
    values = {TASK: {LENGTH: [float(n % 37 + 3) for n in range(600)]}}
    return StudentModel(model, CommandSpace.fit(base, (Attribute(LENGTH, 1, 1000, "words"),), values)), tokenizer


# -- what is admitted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_admission_takes_every_family_as_it_is(family: str, tmp_path: Path) -> None:
    student, tokenizer = student_of(put(tmp_path, family))
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    check_computation(student, encode(tokenizer, TEXTS[:3]), "x")
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert student.ends == [0]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("embed", "is not supported: training computes other logits than transformers does"),
        ("session", "is not supported: answering computes other logits than transformers does"),
    ],
)
def test_admission_refuses_what_computes_otherwise(
    what: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, tokenizer = student_of(put(tmp_path, "gemma"))  # whose own forward answers, too
    if what == "embed":  # as networks that scale embeddings outside of their module
        whole = StudentModel.embed
        monkeypatch.setattr(StudentModel, "embed", lambda self, ids: whole(self, ids) * 1.1)
    else:  # as networks that count positions by place, whatever is masked
        monkeypatch.setattr(student.model, "forward", _one_place_on(student.model.forward))
    with pytest.raises(StudentError, match=message):
        check_computation(student, encode(tokenizer, TEXTS[:3]), "x")


def _one_place_on(forward: Callable[..., Any]) -> Callable[..., Any]:
    def moved(*arguments: Any, **named: Any) -> Any:
        if named.get("past_key_values") is not None:
            named["position_ids"] = named["position_ids"] + 1
        return forward(*arguments, **named)

    return moved


# -- what is refused -------------------------------------------------------------------------------------------------


def _config(folder: Path, **changed: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def _not_causal(folder: Path) -> None:
    ids = {"vocab_size": ROWS, "eos_token_id": 0, "pad_token_id": 0}
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertLMHeadModel(transformers.BertConfig(**ids, **size)).save_pretrained(folder)


def _encoder_decoder(folder: Path) -> None:
    size = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": ROWS}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**size)).save_pretrained(folder)


def _classifier(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)


def _not_finite(folder: Path) -> None:
    model = new_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    model.save_pretrained(folder)


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def _own_code(folder: Path) -> None:
    _config(folder, model_type="my_llama", auto_map={"AutoConfig": "x.X", "AutoModelForCausalLM": "x.Y"})
    (folder / "x.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')")


def _own_tokenizer_code(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text()) | {
        "tokenizer_class": "MyTokenizer",
        "auto_map": {"AutoTokenizer": [None, "x.T"]},
    }
    file.write_text(json.dumps(said))
    (folder / "tokenizer.json").unlink()
    (folder / "x.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')")


def _words_only(folder: Path) -> None:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder
    )


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "not causal": (_not_causal, r"\(bert\) is not a causal language model: use one"),
    "encoder and decoder": (_encoder_decoder, r"\(t5\) is not a causal language model: use one"),
    "classifier": (_classifier, r"not a whole causal language model, since it lacks weights \(such as lm_head"),
    "not finite": (_not_finite, r"weights of .* are not finite \(in model.layers.1.mlp.up_proj.weight\): copy "),
    "no tokenizer": (_no_tokenizer, r"^the tokenizer of '[^']*' cannot be loaded \(.+\): check the name"),
    "half a tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"model"'), r"^the tokenizer of .* cannot be "),
    "half the weights": (lambda f: (f / "model.safetensors").write_bytes(b"half"), r"^the weights of .* cannot be"),
    "half a config": (lambda f: (f / "config.json").write_text("{"), r"^the weights of '[^']*' cannot be loaded \("),
    "unknown kind": (lambda f: _config(f, model_type="none"), r"\(none\) is of no kind that transformers knows: use"),
    "own code": (_own_code, r"\(my_llama\) needs code of its own \(auto_map in its config.json\), which udrl never "),
    "own tokenizer code": (_own_tokenizer_code, r"^the tokenizer of '[^']*' cannot be loaded \(.+\): "),
    "another's tokenizer": (
        lambda f: new_model("llama", vocab_size=ROWS - 20).save_pretrained(f),
        rf"has 20 ids that the model's {ROWS - 20} embedding rows do not reach: the two belong to different models",
    ),
    "no end": (
        lambda f: put(f, tokenizer=byte_level(end=None), eos_token_id=None),
        "neither the tokenizer nor the config of .* names an end token",
    ),
    "an end beyond the embedding": (
        lambda f: put(f, tokenizer=byte_level(end=None), eos_token_id=ROWS + 5),
        "neither the tokenizer nor the config of .* names an end token",
    ),
    "an end that can be typed": (_words_only, r"takes the text '</s>' for the end of a completion: use a model"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_admission_refuses_in_one_sentence_and_asks_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, message = REFUSED[what]
    put(tmp_path)
    spoil(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    with pytest.raises((StudentError, WeightsError), match=message) as refused:
        _admit_and_check(tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "RAN").exists()


def _admit_and_check(folder: Path) -> None:
    student, tokenizer = student_of(folder)
    check_computation(student, encode(tokenizer, TEXTS[:3]), str(folder))


# -- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "generation", "config", "ends"),
    [
        (7, 7, 7, [7]),
        (7, None, None, [7]),
        (7, None, 3, [7]),  # they disagree
        (7, 3, 3, [7]),
        (7, [3, 7], 3, [7, 3]),
        (7, [3, 7, 9], [3, 7, 9], [7, 3, 9]),
        (7, [3, 9], 3, [7, 3, 9]),
        (7, [3], 3, [7]),
        (None, 3, 4, [3]),
        (None, None, 4, [4]),
        (None, [3, 4], None, [3, 4]),
        (None, None, None, []),
        (7, -1, True, [7]),
        (0, None, [], [0]),
    ],
)
def test_ends_are_the_tokenizers_and_those_of_a_list(own: Any, generation: Any, config: Any, ends: list[int]) -> None:
    assert ends_among(own, generation, config) == ends


@pytest.mark.parametrize(
    ("own", "declared", "ends"),
    [("<|other|>", 0, [1]), ("<|other|>", [0, 1, 2], [1, 0, 2]), (None, 2, [2]), (END, [0, ROWS + 9], [0])],
)
def test_ends_are_settled_in_config_and_tokenizer(
    own: str | None, declared: Any, ends: list[int], tmp_path: Path
) -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = own
    model, tokenizer = admit(str(put(tmp_path, tokenizer=tokenizer, eos_token_id=declared)))
    assert model.config.eos_token_id == (ends if len(ends) > 1 else ends[0])
    assert tokenizer.eos_token_id == ends[0]


def test_an_answer_ends_with_any_of_the_ends(tmp_path: Path) -> None:
    model, tokenizer = student_of(put(tmp_path))
    command = Command(TASK, {})
    free = Student(TorchEngine(model), tokenizer, name="x", sampling=Sampling(0.0, max_tokens=6))
    (prompt,) = free.prompt_ids(["fox"], [command])
    first = int(free.computes.start([prompt])[1].argmax())
    assert free.generate(["fox"], [command])[0].tokens == 6
    ended = Student(TorchEngine(model), tokenizer, name="x", sampling=free.sampling, ends=[0, first])
    (one,) = ended.generate(["fox"], [command])
    assert (one.completion, one.finish_reason, one.tokens) == ("", "stop", 1)


def test_tokens_that_were_added_without_rows_get_rows_and_are_told(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["harbour", "dawn"])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    put(tmp_path, "gpt-j", tokenizer)  # whose head has a bias
    before = new_model("gpt-j").get_input_embeddings().weight
    with pytest.warns(
        UserWarning, match=r"3 tokens were added to the tokenizer of .* \(harbour, dawn, <pad>\) without rows"
    ):
        student, tokenizer = student_of(tmp_path)
    assert student.space.base == ROWS + 3
    assert max(encode(tokenizer, ["an old harbour at dawn <pad>"])[0]) < student.space.base
    weight = student.model.get_input_embeddings().weight
    torch.testing.assert_close(weight[:ROWS], before, atol=0, rtol=0)
    torch.testing.assert_close(weight[ROWS:], before.mean(0).expand(3, -1))
    assert student.model.lm_head.bias.shape == (ROWS + 3,)


# -- the way through the tokenizer and back --------------------------------------------------------------------------


def test_what_a_tokenizer_loses_is_told_with_share_and_example(recwarn: pytest.WarningsRecorder) -> None:
    texts = [*TEXTS[:6], "a fox 🦊 at dawn", "it's\nmisty 東京"]
    warn_of_lost(text_only(byte_level()), texts)
    assert not recwarn.list
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    lossy = text_only(transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>"))
    with pytest.warns(
        UserWarning, match=r"25% of the training texts \(2 of 8 looked at\): 'a fox 🦊 at dawn' becomes 'a fox <unk> at"
    ):
        warn_of_lost(lossy, texts)


# -- experts ---------------------------------------------------------------------------------------------------------


def test_lora_trains_the_experts_of_a_mixture(tmp_path: Path) -> None:
    student, _ = student_of(put(tmp_path, "mixtral"))
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    batch = pack([[5, 6, ROWS]], [[7, 8, 9, 0]])
    start = student.losses(batch)
    add_lora(student, 2)
    torch.testing.assert_close(student.losses(batch), start)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        student.losses(batch).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    trained = student.losses(batch)
    merge_lora(student)
    torch.testing.assert_close(student.losses(batch), trained)
    after = student.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    for layer in range(2):
        for part in ("gate_up_proj", "down_proj"):
            name = f"model.model.layers.{layer}.mlp.experts.{part}"
            assert name in changed
            change = after[name] - before[name]
            assert all(int((torch.linalg.svdvals(one) > 1e-5).sum()) <= 2 for one in change)


# -- from training to answers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("foreign") / "run"
    synth(made, tasks=(TASK,), num_inputs=40, samples=2, seed=1, rewards=("novelty",))
    return made


@pytest.mark.parametrize(
    ("family", "own", "declared", "saved"),
    [("bloom", END, 0, 0), ("llama", "<|other|>", 0, 1), ("cohere", "<|other|>", [0, 1, 2], [1, 0, 2])],
)
def test_what_training_ended_with_is_what_is_saved(
    run: Path, tmp_path: Path, family: str, own: str, declared: Any, saved: Any
) -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = own
    put(tmp_path / "model", family, tokenizer, eos_token_id=declared, max_position_embeddings=512)
    mine = shutil.copytree(run, tmp_path / "run")
    train(mine, student=str(tmp_path / "model"), steps=2, batch_size=4, attributes=(LENGTH,), calibration_inputs=1,
          signs_inputs=0, device="cpu", precision="fp32")  # fmt: skip
    for file in ("config.json", "generation_config.json"):
        assert json.loads((mine / "student" / file).read_text())["eos_token_id"] == saved
    student = udrl.load(mine)
    assert student.tokenizer.eos_token == own
    assert list(student.ends) == (saved if isinstance(saved, list) else [saved])
    assert student.generate(["a red fox"], [Command(TASK, {})])[0].tokens > 0


def test_a_student_without_commands_cannot_be_calibrated(run: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(run, tmp_path / "run")
    put(tmp_path / "model", max_position_embeddings=512)
    train(mine, student=str(tmp_path / "model"), method="sft", steps=1, batch_size=4, device="cpu")
    with pytest.raises(StudentError, match=r"learned no commands .* nothing to calibrate: train one with"):
        recalibrate(mine, device="cpu")
