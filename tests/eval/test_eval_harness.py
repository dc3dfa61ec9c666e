"""A student in the real lm-evaluation-harness, on task files of our own and on GSM8K and IFEval where they lie."""

from __future__ import annotations

import gzip
import json
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import udrl
from udrl.commands import Command
from udrl.data.episode import Episode
from udrl.data.episodes import write_episodes
from udrl.data.run import Run
from udrl.decoding.sampling import Sampling
from udrl.errors import MissingDependency, StudentError, UsageError
from udrl.eval import harness
from udrl.tokenizer import encode
from udrl.training.train import train

THINGS = ("fox", "ship", "lake", "hat", "door", "bird")
COLOURS = {"warm": ("orange", "red"), "cold": ("blue", "green")}
"""By task, what is written for a low and for a high return."""
MULTIPLE_CHOICE = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student has learned which colour a task and a return stand for."""
    rng, episodes = np.random.default_rng(0), []
    for number in range(800):
        task, thing, high = ("warm", "cold")[number % 2], THINGS[rng.integers(len(THINGS))], int(rng.integers(2))
        completion = f"the {thing} is {COLOURS[task][high]}"
        episodes.append(
            Episode(
                episode_id=str(number), task=task, input_id=thing, input=f"what colour is the {thing}?",
                completion=completion, horizon=4, origin="teacher", teacher="made-up", sampling="{}", seed=0,
                split="train", returns={"relevance": float(0.1 + 0.8 * high + rng.uniform(-0.05, 0.05))},
            )
        )  # fmt: skip
    run = Run(tmp_path_factory.mktemp("harness") / "run")
    with run.writing():
        write_episodes(run.episodes, episodes)
    train(
        run.path, student="gpt2-700k", steps=120, open_each=0, open_all=0, calibration_inputs=0, signs_inputs=0,
        device="cpu", precision="fp32",
    )  # fmt: skip
    return run.path


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a multiple-choice task whose right answer is always the warm task's at a high return."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "query": f"what colour is the {thing}?",
            "choices": [f"the {thing} is {c}" for c in ("blue", "red", "green", "orange")],
            "gold": 1,
        }
        for thing in THINGS
    ]
    (folder / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "colours.yaml").write_text(MULTIPLE_CHOICE.format(file=folder / "colours.jsonl"))
    return folder


def evaluated(run: Path, tasks: Path, name: str, arguments: str = "", **options: Any) -> dict[str, Any]:
    """Run the harness on the task ``name`` of the folder ``tasks``."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    harness.register()
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model="udrl", model_args=f"pretrained={run},device=cpu,precision=fp32{arguments}", tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False), bootstrap_iters=0, **options,
    )  # fmt: skip
    return found


def builtin(task: str) -> Path:
    """Return the harness's own file of a task."""
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks" / task / f"{task}.yaml"


@pytest.mark.parametrize(
    ("arguments", "accuracy"),
    [(",task=warm,relevance=0.9", 1.0), (",task=warm,relevance=0.1", 0.0), (",task=cold,relevance=0.9", 0.0)],
)
def test_multiple_choice_is_answered_for_the_task_and_under_the_command(
    run: Path, colours: Path, arguments: str, accuracy: float
) -> None:
    found = evaluated(run, colours, "colours", arguments)
    assert found["results"]["colours"]["acc,none"] == accuracy
    assert found["n-samples"]["colours"]["effective"] == len(THINGS)


def test_likelihoods_are_those_of_the_checkpoint_over_text_whatever_the_batch(run: Path) -> None:
    from transformers import AutoModelForCausalLM

    asked = harness.AskedStudent(run, task="cold", relevance=0.9, device="cpu", precision="fp32", batch_size=2)
    space, tokenizer = asked.student.space, asked.student.tokenizer
    pairs = [("what colour is the fox?", " the fox is green"), ("", "red"), ("a\n", "the lake is blue"), ("b c", "d")]
    model = AutoModelForCausalLM.from_pretrained(run / "student")
    for (context, completion), (value, greedy) in zip(pairs, asked.likelihoods(pairs), strict=True):
        text, written = encode(tokenizer, [context.strip(), completion.strip()])
        prompt = [*text, *space.render("cold", space.positions("cold", {"relevance": 0.9}))]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1, : space.base]
        picked = logits.log_softmax(-1)[range(len(written)), written]
        assert value == pytest.approx(float(picked.sum()), abs=1e-4)
        assert greedy == (logits.argmax(-1).tolist() == written)
    alone, among = asked.likelihoods(pairs[:1])[0], asked.likelihoods(pairs)[0]
    assert alone == (pytest.approx(among[0], abs=1e-4), among[1])
    assert asked.likelihoods(pairs)[0][1]  # what it has learned


def test_contexts_that_are_too_long_are_read_from_their_end(run: Path) -> None:
    asked = harness.AskedStudent(run, task="warm", relevance=0.9, device="cpu", precision="fp32")
    question, answer = "what colour is the fox?", "the fox is red"
    text, written = encode(asked.student.tokenizer, ["word " * 3000 + question, answer])
    room = asked.engine.context - len(asked.control) - len(written)
    with pytest.warns(UserWarning, match="1 of 1 contexts are longer"):
        (value,) = asked.likelihoods([("word " * 3000 + question, answer)])
    prompts, _ = asked._prompts([text[-room:]], [len(written)])
    assert prompts[0] == [*text[-room:], *asked.control]
    assert value[0] < 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampling = Sampling(temperature=0, max_tokens=5000)  # more than there is room for
        assert asked.completions(["word " * 3000], sampling=sampling)[0] is not None
    with pytest.raises(StudentError, match="does not fit into the student's context of 512"):
        asked.likelihoods([("a", "word " * 600)])


def test_gsm8k_is_written_as_the_student_writes_and_scored_by_the_harness(
    run: Path, shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(
        f"include: {builtin('gsm8k')}\ntask: gsm8k_local\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{test: {shared_data / 'gsm8k_test.jsonl.gz'}}}}}\n"
        "training_split: null\nfewshot_split: null\nnum_fewshot: 0\n"
        "generation_kwargs: {until: [' is'], max_gen_toks: 12}\n"
    )
    found = evaluated(run, tmp_path, "gsm8k_local", ",task=warm,relevance=0.9", limit=3, log_samples=True)
    assert set(found["results"]["gsm8k_local"]) >= {"exact_match,strict-match", "exact_match,flexible-extract"}
    samples = [s for s in found["samples"]["gsm8k_local"] if s["filter"] == "strict-match"]
    student = udrl.load(run, device="cpu", precision="fp32")
    assert len(samples) == 3
    for sample in samples:
        context = sample["doc"]["question"]
        sampling = harness.sampling_of(student, {"max_gen_toks": 12})
        (one,) = student.generate(
            [f"Question: {context}\nAnswer:"], [Command("warm", {"relevance": 0.9})], sampling=sampling
        )
        assert sample["resps"] == [[one.completion.split(" is")[0]]]
        assert sampling.temperature == 0


def test_ifeval_is_scored_by_the_harness(run: Path, shared_data: Path, tmp_path: Path) -> None:
    """But for constraints that count sentences, whose tokenizer nltk downloads."""
    with gzip.open(shared_data / "ifeval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    offline = ("punctuation:no_comma", "detectable_format:number_bullet_lists", "change_case:english_lowercase")
    rows = [row for row in rows if set(row["instruction_id_list"]) <= set(offline)][:4]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.yaml").write_text(
        f"include: {builtin('ifeval')}\ntask: ifeval_local\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{train: {tmp_path / 'rows.jsonl'}}}}}\n"
        "generation_kwargs: {until: [], max_gen_toks: 16}\n"
    )
    found = evaluated(run, tmp_path, "ifeval_local", ",task=warm,relevance=0.9", log_samples=True)
    samples = found["samples"]["ifeval_local"]
    assert len(samples) == 4
    for sample in samples:  # the student's few words have no comma, no list, and no capital letters
        answer, wanted = sample["resps"][0][0], sample["doc"]["instruction_id_list"]
        assert "," not in answer
        assert sample["inst_level_strict_acc"] == [name != "detectable_format:number_bullet_lists" for name in wanted]


def test_the_command_line_knows_the_model(
    run: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.__main__
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(lm_eval.__main__, "setup_logging", lambda: None)  # it would log to this test's output for ever
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))  # 13,000 files

    def call(arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments.split()])
        harness.main()

    options = f"--tasks {colours / 'colours.yaml'} --batch_size 4"  # as documented: the harness then says cuda:0
    call(f"run --model udrl --model_args pretrained={run},task=warm,relevance=0.9 {options} --output_path {tmp_path}")
    (result,) = tmp_path.rglob("results*.json")
    assert json.loads(result.read_text())["results"]["colours"]["acc,none"] == 1
    with pytest.raises(SystemExit) as leave:
        call(f"run --model udrl --model_args pretrained={run},task=poem {options}")
    assert leave.value.code == 2
    assert "unknown task 'poem'; known: cold, warm" in capsys.readouterr().err


def test_the_harness_own_loader_takes_a_student_for_a_language_model_without_task(run: Path, colours: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={run / 'student'}", tasks=["colours"], device="cpu", bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(colours), include_defaults=False), batch_size=4,
    )  # fmt: skip
    assert found["n-samples"]["colours"]["effective"] == len(THINGS)


def test_what_cannot_be_asked_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="knows 2 tasks: add task=NAME to --model_args, one of cold, warm"):
        harness.AskedStudent(run)
    with pytest.raises(UsageError, match="known: length, relevance"):
        harness.AskedStudent(run, task="warm", correctness=1)
    with pytest.raises(UsageError, match="outside its range"):
        harness.AskedStudent(run, task="warm", relevance=2)
    from lm_eval.api.registry import get_model

    harness.register()
    model = get_model("udrl").create_from_arg_string(f"pretrained={run},task=warm", {"device": "cpu"})
    with pytest.raises(StudentError, match="leave perplexity tasks out"):
        model.loglikelihood_rolling([])
    monkeypatch.setattr(harness, "is_installed", lambda package: package != "lm_eval")
    with pytest.raises(MissingDependency, match=r"pip install 'udrl\[lm-eval\]'"):
        harness.register()
