"""Teacher cards: that those that ship are complete, that a user's own works the same, and how teachers are primed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from fault_server import FaultServer

from udrl.cli.main import app
from udrl.data.dataset_card import dataset_card
from udrl.data.facts import CostFacts
from udrl.data.ledger import Ledger
from udrl.data.statistics import EpisodeMeter
from udrl.data.survey import Usage
from udrl.data.tasks import load_task, load_tasks
from udrl.errors import TaskError
from udrl.teacher import mixes
from udrl.teacher.cards import Card, Prices, at_endpoint, load_card, shipped_cards
from udrl.teacher.synthesis.account import Account
from udrl.teacher.synthesis.synth import synth

LLMS = sorted(set(shipped_cards()) - {"builtin"})
[TASK] = load_tasks(["text-to-image"])


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def own_card(folder: Path, **changes: Any) -> Path:
    """Write a card of a user's: the shipped one for llama3, with changes."""
    data = yaml.safe_load(shipped_cards()["llama3"].read_text(encoding="utf-8")) | {"name": "own"} | changes
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def setting(name: str, card: Card, *, task: Any = TASK, text: str = "a red fox", **changes: Any) -> str:
    """Return what a teacher is asked under the setting ``name`` of a card."""
    index = [entry.name for entry in card.mix].index(name)
    settings = mixes.sampling(card.mix, index, task.min_words, task.max_words)
    messages, sampling = mixes.messages_for(task, text, settings, **changes)
    assert "priming" not in sampling
    assert "{" not in messages[-1]["content"]
    return messages[-1]["content"]


# --- what ships


def test_cards_of_all_teachers_are_there() -> None:
    assert {"builtin", "llama3", "llama3.1", "qwen2", "qwen3", "mistral", "ministral"} <= set(shipped_cards())


@pytest.mark.parametrize("name", LLMS)
def test_cards_that_ship_are_complete(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card.revision is not None
    assert re.fullmatch("[0-9a-f]{40}", card.revision), "a branch would move"
    assert card.prices == Prices(0.0, 0.0, 0.0), "what a machine of one's own costs is for the user to say"
    assert len(card.licence.outputs) > 20
    assert len(card.mix) >= 4
    names = [entry.name for entry in card.mix]
    assert names[0] == "careful"
    assert "careless" in names
    assert {entry.length for entry in card.mix} == {"any", "short", "long"}
    assert {entry.prime for entry in card.mix} == {None, "qualities", "reference", "command"}
    first_four = card.mix[:4]
    assert {entry.length for entry in first_four} == {"any", "short", "long"}, "the four that --samples 4 uses differ"
    assert not any(entry.prime for entry in first_four), "priming is an option"
    assert card.mix[0].engine["temperature"] < min(entry.engine["temperature"] for entry in first_four[1:])
    for entry in card.mix:
        setting(entry.name, card)


def test_cards_state_what_licences_say_of_training() -> None:
    assert "may not be used to improve any other large language model" in load_card("llama3").licence.outputs
    assert '"Llama" at the beginning of its name' in load_card("llama3.1").licence.outputs
    assert "Built with Llama" in load_card("llama3.1").licence.outputs
    assert "not commercially" in load_card("ministral").licence.outputs
    assert {load_card(name).licence.name for name in ("qwen2", "qwen3", "mistral")} == {"apache-2.0"}


def test_cards_of_thinking_models_switch_it_off() -> None:
    chat = load_card("qwen3").chat
    assert chat.template_arguments == {"enable_thinking": False}
    assert chat.strip_thinking


def test_cards_at_an_endpoint_have_no_revision() -> None:
    card = at_endpoint(load_card("qwen2"), "http://localhost:1/v1")
    assert (card.backend, card.revision) == ("openai", None)


# --- a user's own


def test_cards_of_users_work_the_same(tmp_path: Path) -> None:
    path = own_card(tmp_path, title="My own", model="my/model")
    result = CliRunner().invoke(app, ["teachers", str(path)])
    assert result.exit_code == 0
    assert "title: My own" in result.output
    assert f"path: {path}" in result.output
    with FaultServer() as server:
        command = ["synth", "--teacher", str(path), "--base-url", server.url, "--task", "text-to-image"]
        command += ["--num-inputs", "2", "--samples", "1", "--no-score", "--run", str(tmp_path / "run")]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert {body["model"] for body in server.bodies} == {"my/model"}
    # The licence is told before the first request, and goes into the dataset's card.
    assert "My own: licence llama3: Meta Llama 3 Community License" in result.output
    text = (tmp_path / "run" / "episodes" / "README.md").read_text(encoding="utf-8")
    assert "license: llama3\n" in text
    assert "may not be used to improve any other" in text


def test_cards_in_the_docs_are_valid(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "teachers" / "endpoints.md"
    [block] = re.findall(r"```yaml\n(schema: .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "ollama.yaml"
    path.write_text(block)
    assert load_card(path).base_url == "http://localhost:11434/v1"


def test_cards_licence_reaches_the_students_card(small_run: Path) -> None:
    text = (small_run / "student" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "builtin (builtin), apache-2.0: no limits on using what it writes" in text


def test_cards_licence_that_the_hub_does_not_know_is_named_beside_other() -> None:
    text = dataset_card(counts={}, meter=EpisodeMeter(()), facts={"licence": "mrl-0.1"}, content="0")
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"
    assert yaml.safe_load(text.split("---")[1])["license_name"] == "mrl-0.1"


def test_cards_price_of_a_gpu_hour_is_part_of_the_cost() -> None:
    class Writer:
        name, gpus = "own", 2

    account = Account(
        CostFacts(),
        prices={"own": Prices(1.0, 2.0, gpu_hour=3.0)},
        usage={("own", "t"): Usage(good=1, prompt_tokens=1_000_000, completion_tokens=500_000)},
        inventing={},
    )
    account.worked(Writer(), 1800)  # type: ignore[arg-type]
    assert account.facts().gpu_hours == 1.0
    assert account.facts().usd == pytest.approx(1.0 + 1.0 + 3.0)


# --- strict templates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"priming": {"qualities": "write {description} for {name}"}},
            r"own.yaml: priming: key 'qualities' uses the unknown variable '\{name\}'",
        ),
        ({"priming": {"qualities": "write well"}}, r"key 'qualities' must use the variable '\{description\}'"),
        (
            {"priming": {"reference": "see {refernce}"}},
            r"unknown variable '\{refernce\}' \(did you mean reference\?\); known: \{reference\}, \{reference_input\}",
        ),
        ({"priming": {"command": "{relevance} and {length:3}"}}, r"unknown variable '\{length:3\}'"),
        ({"priming": {"style": "x"}}, "unknown key 'style'"),
        (
            {"sampling": [{"name": "a"}, {"name": "b", "instruction": "in {words} words"}]},
            r"own.yaml: sampling, item 2: key 'instruction' uses the unknown variable '\{words\}'",
        ),
        ({"sampling": [{"name": "a"}, {"name": "b", "prime": "quality"}]}, "key 'prime' must be one of qualities, ref"),
        (
            {"sampling": [{"name": "a"}, {"name": "b", "prime": "command"}], "priming": {"qualities": "{description}"}},
            "sampling, item 2: key 'prime': the card has no template 'command' under 'priming'",
        ),
        ({"sampling": [{"name": "a", "prime": "command"}]}, "is the careful one, .*take .*'prime' out of it"),
        ({"invent": {"temperature": 9}}, "own.yaml: invent: key 'temperature' must be within"),
        ({"invent": {"count": 9}}, "own.yaml: invent: unknown key 'count'"),
        ({"prices": {"prompt": 1, "completion": 1, "gpu_hour": -1}}, "prices: key 'gpu_hour' must be US dollars"),
    ],
)
def test_cards_templates_are_strict(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_card(own_card(tmp_path, **changes))


@pytest.mark.parametrize("key", ["instruction", "invent"])
def test_cards_tasks_templates_are_strict_too(tmp_path: Path, key: str) -> None:
    data = yaml.safe_load(TASK.path.read_text(encoding="utf-8"))
    data[key] += "\n{style}"
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(TaskError, match=rf"own.yaml: key '{key}' uses the unknown variable '\{{style\}}'"):
        load_task(path)


# --- priming


def test_priming_with_qualities_shows_what_is_expected() -> None:
    card = load_card("llama3")
    text = setting("with-qualities", card)
    assert text.startswith(TASK.request("a red fox"))
    shown = text.removeprefix(TASK.request("a red fox")).strip()
    assert shown == f"What is expected: {TASK.description} It has 6 to 60 words."


def test_priming_with_a_reference_shows_another_inputs_example() -> None:
    card = load_card("llama3")
    [first, *_] = TASK.examples
    for text in (first.input, first.input.upper()):
        shown = setting("with-reference", card, text=text).removeprefix(TASK.request(text))
        assert first.completion not in shown, "the answer to this very input would be copied"
        assert any(f'"{other.input}":\n{other.completion}\n' in shown for other in TASK.examples[1:])
    drawn = {setting("with-reference", card, text=f"fox {n}").partition("is wanted")[2] for n in range(30)}
    assert len(drawn) == len(TASK.examples)


def test_priming_with_a_reference_prefers_the_inputs_own() -> None:
    shown = setting("with-reference", load_card("llama3"), reference="a fox in red chalk").removeprefix(
        TASK.request("a red fox")
    )
    assert '"a red fox":\na fox in red chalk\n' in shown
    assert not any(example.completion in shown for example in TASK.examples)


def test_priming_with_the_command_varies_over_inputs_within_bounds() -> None:
    card = load_card("llama3")
    lengths, levels = set(), set()
    for number in range(200):
        found = re.search(r"about (\d+) words and (\w+) relevance", setting("with-command", card, text=f"fox {number}"))
        assert found
        lengths.add(int(found[1]))
        levels.add(found[2])
    assert levels == {"low", "medium", "high"}
    assert min(lengths) < 12 < 55 < max(lengths)
    assert TASK.min_words <= min(lengths) <= max(lengths) <= TASK.max_words
    assert setting("with-command", card) == setting("with-command", card), "a function of the input"


def test_priming_is_asked_for_and_recorded(tmp_path: Path) -> None:
    path = own_card(tmp_path)
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text('{"text": "a red fox", "reference": "a fox in red chalk"}\n{"text": "a blue jay"}\n')
    with FaultServer() as server:
        synth(
            tmp_path / "run",
            teacher=path,
            base_url=server.url,
            tasks=["text-to-image"],
            inputs=inputs,
            samples=9,
            score=False,
        )
    records = {(row.input, row.sampling["style"]): row for row in Ledger(tmp_path / "run" / "ledger")}
    assert len(records) == 18
    fox = records["a red fox", "with-reference"]
    assert fox.sampling["prime"] == "reference"
    assert "a fox in red chalk" in fox.messages[0]["content"]
    assert "a fox in red chalk" not in records["a blue jay", "with-reference"].messages[0]["content"]
    assert "prime" not in records["a red fox", "careful"].sampling


def test_priming_with_a_reference_needs_one_before_anything_is_asked(tmp_path: Path) -> None:
    data = yaml.safe_load(TASK.path.read_text(encoding="utf-8"))
    del data["examples"]
    task = tmp_path / "text-to-image.yaml"
    task.write_text(yaml.safe_dump(data))
    inputs = tmp_path / "inputs.txt"
    inputs.write_text("a red fox\n")
    path = own_card(tmp_path)
    with FaultServer() as server:
        options: dict[str, Any] = {"teacher": path, "base_url": server.url, "tasks": [task], "inputs": inputs}
        with pytest.raises(TaskError, match=r"own.yaml: the setting 'with-reference' shows a reference answer, and .*"):
            synth(tmp_path / "run", **options, samples=8, score=False)
        assert server.bodies == []
        synth(tmp_path / "run", **options, samples=4, score=False)  # does not come as far as that setting
        assert len(server.bodies) == 4
    with pytest.raises(TaskError, match="shows a reference answer"):
        setting(
            "with-reference",
            load_card(path),
            task=replace(TASK, examples=TASK.examples[:1]),
            text=TASK.examples[0].input,
        )
