"""Contaminated inputs: found by equality, shared words and meaning; rejected by name; never silently."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from udrl.data.decontamination import NGRAM, RULE, find_contaminated, suite_inputs
from udrl.data.episodes import read_episodes
from udrl.data.hygiene import Hygiene
from udrl.data.inputs import input_id, split_of
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.encoder import Encoder
from udrl.errors import TaskError, UsageError
from udrl.rewards.scoring import score
from udrl.teacher.synthesis.synth import synth

HELD_OUT = "A brass telescope, in the flooded library of an old monastery by the sea"


class AxisEncoder:
    """The first word decides the direction; what stands after it turns the vector by a tenth a word."""

    name, revision, precision, truncated = "axis", "1", "fp32", 0

    def encode(self, texts: list[str]) -> npt.NDArray[np.float32]:
        angles = np.asarray([0.1 * (len(text.split()) - 1) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def is_truncated(self, texts: list[str]) -> npt.NDArray[np.bool_]:
        return np.zeros(len(texts), bool)

    def is_unknown(self, texts: list[str]) -> npt.NDArray[np.bool_]:
        return np.zeros(len(texts), dtype=bool)


def trained_on(text: str) -> str:
    """Return the text with a number that puts it into the training split."""
    return next(f"{text} {n}" for n in range(100) if split_of(input_id(f"{text} {n}")) == "train")


def found(*texts: str, held_out: str = HELD_OUT, encoder: Encoder | None = None) -> dict[str, str]:
    pairs = [(input_id(text), text) for text in texts]
    result = find_contaminated(pairs, {"mine": [held_out]}, encoder=encoder)
    assert result.input_ids == {input_id(match.input) for match in result.examples}
    return {match.input: match.how for match in result.examples}


def test_decontamination_equal_words_are_found_whatever_their_form() -> None:
    variants = [HELD_OUT.upper(), f"  {HELD_OUT}!", HELD_OUT.replace(", ", " -- ")]
    variants = [text for text in variants if split_of(input_id(text)) != "test"]
    assert variants
    assert found(*variants) == dict.fromkeys(variants, "equal")
    short = trained_on("red fox")
    assert found(short, held_out=short.upper()) == {short: "equal"}


def test_decontamination_a_shared_run_of_words_is_found_at_its_length_and_no_shorter() -> None:
    words = HELD_OUT.replace(",", "").split()
    enough = trained_on("please draw " + " ".join(words[2 : 2 + NGRAM]) + " for me")
    short = trained_on("please draw " + " ".join(words[2 : 1 + NGRAM]) + " for me")
    assert found(enough, short) == {enough: "ngram"}


def test_decontamination_by_meaning_uses_the_encoder() -> None:
    held = "red one two three four"
    near, far = trained_on("red a b"), trained_on("red")  # angles .3 and .1 against .4
    encoder = AxisEncoder()
    assert found(near, held_out=held, encoder=encoder) == {near: "embedding"}
    assert found(far, held_out="red " + "x " * 8, encoder=encoder) == {}
    assert found(near, held_out=held) == {}


def test_decontamination_leaves_the_test_split_alone() -> None:
    text = next(f"red fox {n}" for n in range(200) if split_of(input_id(f"red fox {n}")) == "test")
    assert found(text, held_out=text) == {}


def test_decontamination_shipped_suites_do_not_share_inputs_with_the_shipped_seeds() -> None:
    from udrl import resources
    from udrl.data.inputs import read_inputs

    suites = suite_inputs()
    assert {"relevance", "foreign"} <= suites.keys()
    assert all(suites.values())
    seeds = [text for path in resources.folder("data").glob("seeds/*.jsonl") for text in read_inputs(path)]
    result = find_contaminated(((input_id(text), text) for text in seeds), suites)
    assert result.inputs > 0.9 * len(set(seeds))
    assert result.examples == ()


def test_decontamination_unknown_and_broken_suites_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean relevance"):
        suite_inputs(["relevence"])
    suite = tmp_path / "mine.yaml"
    suite.write_text("schema: 1\nname: mine\ntitle: T\ndescription: D\ninputs: {folder: nowhere}\n")
    with pytest.raises(TaskError, match="no inputs in"):
        suite_inputs([suite])
    assert suite_inputs([]) == {}


def test_decontamination_and_personal_data_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = [trained_on(text) for text in ("a brass telescope", "a red fox", "mail jane@example.org")]
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"text": inputs[0].upper()}) + "\n")
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        "schema: 1\nname: mine\ntitle: T\ndescription: D\ninputs: {file: mine.jsonl, task: text-to-image}\n"
    )
    given = tmp_path / "inputs.txt"
    given.write_text("\n".join(inputs))
    place = Run(tmp_path / "run")
    wanted = Hygiene(suites=["mine.yaml", "relevance"], pii="mask")
    report = synth(
        place, tasks=["text-to-image"], inputs=given, num_inputs=3, samples=2, rewards=("novelty",), hygiene=wanted
    )
    assert report.episodes[f"rejected:{RULE}"] == 2
    assert report.episodes["masked:email"] >= 2
    episodes = read_episodes(place.episodes, kept=False)
    assert {episode.input for episode in episodes if episode.rejected_by == RULE} == {inputs[0]}
    assert inputs[0] not in {episode.input for episode in episodes if episode.origin != "teacher"}
    [masked] = {episode.input for episode in episodes if "mail" in episode.input}
    assert "[EMAIL]" in masked
    assert {episode.input_id for episode in episodes if episode.input == masked} == {input_id(inputs[2])}
    assert inputs[2] in {record.input for record in Ledger(place.ledger)}  # the ledger is raw
    facts = place.facts().hygiene
    assert (facts.pii, facts.decontamination.contaminated) == ("mask", 1)
    card = (place.episodes / "README.md").read_text()
    assert "| contaminated inputs | 1 of 3 (1 by equal) |" in card
    assert facts.decontamination.asked == (str(suite), "relevance")
    assert "| benchmark suites kept out of training | mine.yaml, relevance |" in card

    monkeypatch.chdir(tmp_path / "run")
    score(place, rewards=("novelty",))  # what was asked for before still holds, from another folder too
    assert read_episodes(place.episodes, kept=False) == episodes
    assert "| benchmark suites kept out of training | mine.yaml, relevance |" in card, "no path of this machine"
    report_of_score = score(place, rewards=("novelty",), hygiene=Hygiene(suites=(), pii="reject"))
    assert f"rejected:{RULE}" not in report_of_score.episodes
    assert report_of_score.episodes["rejected:pii"] == 2
