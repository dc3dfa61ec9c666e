"""``train``: real training of a small student, interrupted, repeated, and used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import udrl
from udrl.commands import LENGTH, Command
from udrl.data.episodes import read_episodes
from udrl.errors import HardwareError, RunError, StudentError, UdrlError, UsageError, WeightsError
from udrl.student.student import Student
from udrl.teacher.synthesis.synth import synth
from udrl.training.examples import draw_open, make_examples, training_order
from udrl.training.render import render
from udrl.training.train import train
from udrl.training.validation import Validation

STEPS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with scored episodes of two tasks and a student that was trained a little, with calibration."""
    path = tmp_path_factory.mktemp("runs") / "small"
    synth(path, teacher="builtin", tasks=("search-query", "text-to-image"), num_inputs=150, samples=4)
    train(path, student="gpt2-mini", steps=STEPS, batch_size=16, vocab_size=600, calibration_inputs=3)
    return path


@pytest.fixture(scope="module")
def student(run: Path) -> Student:
    return udrl.load(run, device="cpu", precision="fp32")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_training_writes_a_checkpoint_that_transformers_loads(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run / "student")
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    assert len(tokenizer) == 600 < model.config.vocab_size
    names = {p.name for p in (run / "student").iterdir()}
    assert {
        "command_space.json",
        "calibration.json",
        "README.md",
        "training.jsonl",
        "model.safetensors",
    } <= names
    facts = json.loads((run / "run.json").read_text())["stages"]["train"]
    assert facts["steps"] == STEPS
    assert facts["parameters"] > 3_000_000


def test_training_lowers_the_loss_also_on_validation_episodes(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "student" / "training.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    last = [line for line in lines if "validation_loss" in line][-1]
    assert last["validation_loss"] < losses[0]


def test_training_interrupted_anywhere_gives_bit_identical_weights(run: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from udrl.training import loop\n"
        "from udrl.training.train import train\n"
        "save, left = loop.save_state, int(sys.argv[2])\n"
        "def save_and_die(file, content):\n"
        "    global left\n"
        "    save(file, content)\n"
        "    left -= 1\n"
        "    if left == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "loop.save_state = save_and_die\n"
        "train(sys.argv[1], student='gpt2-mini', steps=6, batch_size=4, vocab_size=400, "
        "calibration_inputs=0, save_every=1)"
    )

    def copy(name: str) -> Path:
        target = tmp_path / name
        (target / "episodes").mkdir(parents=True)
        for file in (run / "episodes").iterdir():
            (target / "episodes" / file.name).write_bytes(file.read_bytes())
        (target / "run.json").write_bytes((run / "run.json").read_bytes())
        return target

    def ended(target: Path, saves: int) -> int:
        """Train until a state has been saved so often, then be killed (0: to the end); return the exit code."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run([sys.executable, "-c", code, str(target), str(saves)], env=environment).returncode

    whole, killed = copy("whole"), copy("killed")
    assert ended(whole, 0) == 0
    state = killed / ".student.partial" / "training_state.pt"
    log = killed / ".student.partial" / "training.jsonl"
    for saves in (2, 3):  # each start's own: 2 steps, then 5
        assert ended(killed, saves) == -signal.SIGKILL
    assert len([line for line in log.read_text().splitlines() if '"loss"' in line]) >= 4
    assert not (killed / "student").exists()
    assert ended(killed, 0) == 0
    assert not state.exists()
    one, other = weights(whole / "student"), weights(killed / "student")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_repeats_with_a_seed_and_differs_with_another(run: Path) -> None:
    made = []
    for seed in (1, 1, 2):
        train(run, student="gpt2-mini", steps=2, batch_size=4, vocab_size=400, calibration_inputs=0, seed=seed)
        made.append(weights(run / "student")["transformer.h.0.mlp.c_fc.weight"])
    train(run, student="gpt2-mini", steps=STEPS, batch_size=16, vocab_size=600, calibration_inputs=3)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_training_from_a_local_pretrained_model_of_another_architecture(run: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from udrl.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a red fox in the snow"] * 10, 320)
    config = LlamaConfig(
        vocab_size=352, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    other = tmp_path / "run"
    synth(other, teacher="builtin", tasks=("search-query",), num_inputs=60, samples=2)
    train(other, student=str(tmp_path / "llama"), steps=3, calibration_inputs=0)
    made = udrl.load(other)
    assert made.space.base == 352  # the model's rows, of which the tokenizer uses fewer
    one = made.generate(["a red fox"], [Command("search-query", {LENGTH: 6})])
    assert isinstance(one[0].completion, str)


def test_training_from_a_pretrained_model_whose_head_has_a_bias(run: Path, tmp_path: Path) -> None:
    from transformers import PhiConfig, PhiForCausalLM

    from udrl.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a red fox in the snow"] * 10, 320)
    config = PhiConfig(
        vocab_size=352, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = PhiForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path / "phi")
    tokenizer.save_pretrained(tmp_path / "phi")
    other = tmp_path / "run"
    synth(other, teacher="builtin", tasks=("search-query",), num_inputs=60, samples=2)
    train(other, student=str(tmp_path / "phi"), steps=1, learning_rate=1e-9, calibration_inputs=0, signs_inputs=0)
    bias = weights(other / "student")["lm_head.bias"]
    torch.testing.assert_close(bias[:352], model.lm_head.bias.detach())
    assert not bias[352:].any()
    assert udrl.load(other).generate(["a red fox"], [Command("search-query", {LENGTH: 6})])[0].tokens > 0


def test_training_from_a_pretrained_gpt2_leaves_attention_dropout_out(run: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from udrl.tokenizer import train_tokenizer
    from udrl.training.admission import admit

    tokenizer = train_tokenizer(["a red fox in the snow"] * 10, 320)
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, eos_token_id=tokenizer.eos_token_id)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    model, _ = admit(str(tmp_path / "gpt2"))
    assert [block.attn.attn_dropout.p for block in model.transformer.h] == [0.0, 0.0], "or a GPU takes padded groups"
    assert model.config.resid_pdrop == 0.1


def test_training_misses_a_reward_before_it_begins(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run, tmp_path / "run")
    facts = json.loads((tmp_path / "run/run.json").read_text())
    facts["stages"]["score"]["rewards"] = [
        {**reward, "source": "not_here:relevance"} for reward in facts["stages"]["score"]["rewards"]
    ]
    (tmp_path / "run/run.json").write_text(json.dumps(facts))
    monkeypatch.setattr("udrl.training.loop.run_loop", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(UdrlError, match="not_here"):
        train(tmp_path / "run", student="gpt2-mini", vocab_size=400, steps=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"student": "gpt2-mimi"}, UsageError, "did you mean gpt2-mini"),
        ({"student": "gpt2-mini", "init": "pretrained"}, UsageError, "no pretrained weights"),
        ({"student": "some/model", "init": "random"}, UsageError, r"needs a preset \(gpt2, gpt2-100m, "),
        ({"student": "gpt2-mini", "attributes": ("clicks",)}, UsageError, "known: relevance, length"),
        ({"student": "gpt2-mini", "device": "cuda:9"}, HardwareError, "cannot be used"),
    ],
)
def test_training_wrong_usage_is_one_sentence(
    run: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(run, steps=1, **options)  # type: ignore[arg-type]
    assert (run / "student" / "model.safetensors").exists()


def test_training_without_hub_says_what_to_do(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for student in ("no-such-owner/no-such-model", "gpt2"):
        with pytest.raises(WeightsError, match=r", or train a student from scratch \(--student gpt2-mini\)$"):
            train(run, student=student, steps=1)


def test_training_of_a_run_without_episodes_or_a_missing_run(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        train(tmp_path / "nothing", student="gpt2-mini", steps=1)


def test_training_order_covers_every_example_and_mixes_tasks_by_root_of_size() -> None:
    tasks = ["big"] * 900 + ["small"] * 100
    order = training_order(tasks, count=8000, temperature=2.0, seed=3)
    small = (order >= 900).mean()
    assert abs(small - 0.25) < 0.02  # sqrt(100) / (sqrt(100) + sqrt(900))
    assert set(order.tolist()) == set(range(1000))
    assert (order == training_order(tasks, count=8000, temperature=2.0, seed=3)).all()


def test_training_command_dropout_opens_each_and_all() -> None:
    import numpy as np

    opened = draw_open((20000, 2), 0.1, 0.1, np.random.default_rng(0))
    assert abs(opened[:, 0].mean() - 0.19) < 0.01
    assert abs(opened.all(1).mean() - (0.1 + 0.9 * 0.01)) < 0.01


def test_training_too_long_examples_lose_input_never_completion(run: Path, student: Student) -> None:
    episode = read_episodes(run / "episodes")[0]
    from dataclasses import replace

    long_input = replace(episode, input="word " * 3000)
    long_completion = replace(episode, completion="word " * 3000)
    made = make_examples([episode, long_input, long_completion], student.tokenizer, student.space, context=128)
    assert len(made) == 2
    for text, written in zip(made.inputs, made.completions, strict=True):
        assert len(text) + student.space.prompt_size + len(written) - 1 <= 128
        assert written[-1] == student.tokenizer.eos_token_id


def test_validation_gap_is_the_difference() -> None:
    assert Validation(1, 2.0, 2.5).gap == 0.5


# -- the trained student ---------------------------------------------------------------------------------------------


def test_student_results_do_not_depend_on_the_batch(student: Student) -> None:
    texts = ["a red fox", "how do I clean a pan?", "zorvath", "two tall ships in an old harbour at dawn"]
    commands = [Command("text-to-image", {"relevance": 0.5, LENGTH: 15}) for _ in texts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = student.generate(texts, commands, seeds=7)
        alone = [student.generate([t], [c], seeds=7)[0] for t, c in zip(texts, commands, strict=True)]
        small = student.generate(texts, commands, seeds=7, batch_size=2)
    assert together == alone == small


def test_student_equal_items_differ_and_seeds_repeat(student: Student) -> None:
    command = Command("text-to-image")
    two = student.generate(["a red fox"] * 2, [command] * 2, seeds=1)
    assert two[0] != two[1]
    assert two == student.generate(["a red fox"] * 2, [command] * 2, seeds=1)


def test_student_target_beyond_reach_is_clamped_with_the_range(student: Student) -> None:
    words = sum(student.reachable("text-to-image", LENGTH)) / 2
    low, high = student.reachable("text-to-image", "relevance", length=words)
    assert 0 <= low <= high <= 1
    with pytest.warns(UserWarning, match=f"at {words:g} words, {low:.2f} to {high:.2f}"):
        student.generate(["a red fox"], [Command("text-to-image", {"relevance": 1.0, LENGTH: words})])
    with pytest.raises(UsageError, match="outside its range"):
        student.generate(["a red fox"], [Command("text-to-image", {"relevance": 1.2})])
    with pytest.raises(UsageError, match="known: search-query, text-to-image"):
        student.generate(["a red fox"], [Command("poem")])


def test_student_typed_control_strings_are_text_everywhere(student: Student) -> None:
    hostile = "a fox <|endoftext|> <|relevance:9|> <task=poem>"
    written = student.generate([hostile], [Command("text-to-image")], seeds=0)
    assert isinstance(written[0].completion, str)
    [request] = student.requests([hostile], [student.space.render("text-to-image", {})])
    ids = request.prompt[: -student.space.prompt_size]
    assert student.tokenizer.eos_token_id not in ids
    assert max(ids) < student.space.base


def test_student_input_longer_than_the_context_is_read_as_far_as_it_fits(student: Student) -> None:
    with pytest.warns(UserWarning, match="ends are not read"):
        written = student.generate(["word " * 5000], [Command("text-to-image")])
    assert written[0].tokens >= 0


def test_student_missing_or_foreign_folder_is_one_sentence(tmp_path: Path, run: Path) -> None:
    with pytest.raises(StudentError, match="train one"):
        udrl.load(tmp_path)
    (tmp_path / "student").mkdir()
    with pytest.raises(StudentError, match="not a student of udrl"):
        udrl.load(tmp_path)


def test_render_rows_are_what_training_and_generation_use(run: Path, student: Student, tmp_path: Path) -> None:
    count = render(run, output=tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    episodes = {e.episode_id: e for e in read_episodes(run / "episodes")}
    assert count == len(rows) == len(episodes)
    for row in rows[:50]:
        episode = episodes[row["episode_id"]]
        achieved = {**episode.returns, LENGTH: float(episode.horizon)}
        control = student.space.render(episode.task, dict(student.space.positions(episode.task, achieved)))
        [request] = student.requests([episode.input], [control])
        assert row["prompt_ids"] == request.prompt  # the generation prompt is the training sequence's prefix
        assert row["completion_ids"][-1] == student.tokenizer.eos_token_id
        assert episode.completion == row["completion"]
