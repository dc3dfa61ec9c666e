"""``udrl improve``, end to end: rounds of a tiny student, killed at every publication, kept, returned to, refused."""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import udrl
import udrl.cli.main as cli
import udrl.encoder
from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.errors import RunError, StudentError, UsageError
from udrl.rewards.reasoning import Accuracy
from udrl.rounds import exploration, history, quality
from udrl.rounds.exploration import read_wishes
from udrl.rounds.improve import ImproveReport, improve, keep
from udrl.rounds.inputs import Source
from udrl.rounds.options import RoundOptions
from udrl.student.student import Student
from udrl.teacher.synthesis.synth import synth
from udrl.tokenizer import train_tokenizer
from udrl.training.train import train

HOW: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
OPTIONS = RoundOptions(
    num_inputs=4, samples=3, steps=4, batch_size=8, validation_inputs=3, sweep_inputs=1, calibration_inputs=1,
    per_input=8, diversity_floor=0.01, patience=9,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_encoder() -> Iterator[None]:
    """Every call loads its encoder, as every process would; here one is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(udrl.encoder, "load_encoder", functools.cache(udrl.encoder.load_encoder))
        patch.setattr(exploration, "CHUNK", 5)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one task with a tiny student that has learned to write short completions."""
    folder = tmp_path_factory.mktemp("improve")
    run, tiny = folder / "run", folder / "tiny"
    synth(run, tasks=("search-query",), num_inputs=60, samples=3, seed=1)
    read = read_episodes(run / "episodes")
    tokenizer = train_tokenizer([e.input for e in read] + [e.completion for e in read], 400)
    end = tokenizer.eos_token_id
    scratch_gpt2(vocab_size=400, layers=1, width=64, heads=2, context=192, eos=end, seed=0).save_pretrained(tiny)
    tokenizer.save_pretrained(tiny)
    train(
        run, student=str(tiny), steps=150, batch_size=16, learning_rate=4e-3, signs_inputs=0, calibration_inputs=1,
        **HOW,
    )  # fmt: skip
    return run


def copy(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base, folder / "run"))


@pytest.fixture(scope="module")
def improved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImproveReport]:
    """The run after two rounds without interruption; for reading only."""
    run = copy(base, tmp_path_factory.mktemp("improved"))
    return run, improve(run, rounds=2, options=OPTIONS, **HOW)


@pytest.fixture
def own(improved: tuple[Path, ImproveReport], tmp_path: Path) -> Path:
    return copy(improved[0], tmp_path)


def in_the_second_round(run: Path) -> None:
    """Put ``run``, whichever round it keeps, into the middle of its second round, with round 0's student."""
    shutil.rmtree(run / "rounds" / "2" / "student")
    (run / "rounds" / "2" / "round.json").unlink()
    shutil.rmtree(run / "student")
    shutil.copytree(run / "rounds" / "0" / "student", run / "student")
    state = json.loads((run / "rounds.json").read_text())
    first = {**state, "rounds": state["rounds"][:2], "kept": 0, "head": 1, "misses": 0, "stopped": None}
    (run / "rounds.json").write_text(json.dumps(first))


def student_bytes(folder: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "command_space.json", "calibration.json", "tokenizer.json")
    return {name: (folder / name).read_bytes() for name in names}


def results(run: Path) -> dict[str, Any]:
    """All that a round makes, but for how long it took."""
    found: dict[str, Any] = {"student": student_bytes(run / "student")}
    for number in (1, 2):
        folder = run / "rounds" / str(number)
        found[f"{number} episodes"] = read_episodes(folder / "episodes", splits=("train", "validation"), kept=False)
        found[f"{number} student"] = student_bytes(folder / "student")
        found[f"{number} measured"] = json.loads((folder / "measured.json").read_text())
        found[f"{number} plan"] = (folder / "plan.jsonl").read_text()
        found[f"{number} explored"] = [path.read_text() for path in sorted((folder / "explored").iterdir())]
    state = json.loads((run / "rounds.json").read_text())
    for one in state["rounds"]:
        del one["seconds"]
        one["training"].pop("seconds", None)
    return {**found, "state": state}


def test_round_trains_on_its_own_episodes_and_original_ones(improved: tuple[Path, ImproveReport], base: Path) -> None:
    run, report = improved
    assert report.made == (1, 2)
    assert udrl.improve is improve
    one, two = report.rounds[1:]
    for done in (one, two):
        assert done.explored == 12
        assert done.added + sum(done.rejected.values()) == done.explored, "every completion is accounted for"
        assert done.added > 0
        folder = run / "rounds" / str(done.round)
        episodes = read_episodes(folder / "episodes")
        origins = Counter("student" if e.origin == "student" else "original" for e in episodes)
        assert (origins["student"], origins["original"]) == (done.pool, done.originals)
        everything = read_episodes(folder / "episodes", kept=False)
        told = Counter(e.rejected_by for e in everything if e.rejected_by is not None)
        assert dict(told) == dict(done.rejected)
        assert done.training["steps"] == 4
        assert done.training["episodes"] == len(episodes)
        assert set(done.figures) >= {
            "top", "matched", "spearman/relevance", "spearman/length", "distinct_2", "distinct_2/within",
            "pairwise_distance", "copy_rate",
        }  # fmt: skip
        new = [e for e in episodes if e.origin == "student" and e.round == done.round]
        assert len(new) == done.added
        assert all(e.returns["relevance"] is not None and e.teacher == "student" and e.split == "train" for e in new)
    assert two.pool == one.pool + two.added, "small pools keep what earlier rounds added"
    known = {e.episode_id for e in read_episodes(base / "episodes")}
    anchors = [
        {e.episode_id for e in read_episodes(run / "rounds" / n / "episodes") if e.origin != "student"} for n in "12"
    ]
    assert anchors[0] | anchors[1] <= known
    assert anchors[0] != anchors[1], "the originals are drawn anew"
    share = (one.originals + two.originals) / (one.originals + two.originals + one.pool + two.pool)
    assert share == pytest.approx(0.4, abs=0.2)
    assert two.parent == 1
    assert len({student_bytes(run / "rounds" / n / "student")["model.safetensors"] for n in "012"}) == 3
    assert student_bytes(run / "rounds" / "0" / "student") == student_bytes(base / "student"), "the first one is safe"


def test_run_has_the_student_of_the_kept_round_and_the_sampling_it_began_with(
    improved: tuple[Path, ImproveReport],
) -> None:
    run, report = improved
    best = max(report.rounds, key=lambda one: (one.figures["top"][0], -one.round))
    assert report.kept == best.round
    assert student_bytes(run / "student") == student_bytes(run / "rounds" / str(report.kept) / "student")
    assert json.loads((run / "run.json").read_text())["stages"]["improve"]["kept"] == report.kept
    first, last = (udrl.load(run / "rounds" / n) for n in "02")
    assert last.sampling == first.sampling
    assert last.space == first.space, "so few episodes do not move bins"


@pytest.mark.parametrize("refit", [True, False])
def test_bins_of_the_return_move_and_the_levels_that_are_measured_do_not(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool
) -> None:
    monkeypatch.setattr("udrl.commands.MIN_PER_TASK", 5)
    asked: list[list[tuple[Any, ...]]] = []

    def noting(student: Student, wanted: Any, **more: Any) -> Any:
        asked.append([(w.task, w.input_id, w.attribute, w.level, w.targets) for w in wanted if w.part == "following"])
        return answer(student, wanted, **more)

    answer = quality.answer
    monkeypatch.setattr(quality, "answer", noting)
    run = copy(base, tmp_path)
    improve(run, rounds=1, options=replace(OPTIONS, refit=refit, steps=2), **HOW)
    first, second = (udrl.load(run / "rounds" / n).space for n in "01")
    moved = {name for of_task in first.scales for name in first.scales[of_task]
             if first.scales[of_task][name] != second.scales[of_task][name]}  # fmt: skip
    assert moved == ({"relevance"} if refit else set())
    assert len(asked) == 2
    assert asked[0] == asked[1], "what is commanded to see obedience stays the same"


def test_encoder_and_inputs_stay_those_that_rounds_were_begun_with(own: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="measured with encoder=None, found encoder=lsa"):
        improve(own, rounds=3, options=replace(OPTIONS, encoder="lsa"), **HOW)
    in_the_second_round(own)
    other = tmp_path / "other.txt"
    other.write_text("a bicycle by the river\n")
    with pytest.raises(UsageError, match=r"inputs None, now \w+.*--restart"):
        improve(own, rounds=2, options=OPTIONS, inputs=other, **HOW)
    with pytest.raises(UsageError, match=r"tasks \[\], now \['assistant'\]"):
        improve(own, rounds=2, options=OPTIONS, tasks=("assistant",), **HOW)
    place = Run(own)
    scored = place.facts().score
    assert scored.encoder is not None
    with place.writing():
        place.record(replace(scored, encoder=replace(scored.encoder, revision="other")))
    with pytest.raises(RunError, match=r"cannot be compared \(encoder: .*, now .* other .*rounds"):
        improve(own, rounds=2, options=OPTIONS, **HOW)


def test_answers_of_the_file_that_is_explored_are_known(tmp_path: Path) -> None:
    file = tmp_path / "sums.jsonl"
    file.write_text('{"text": "How much is two and three?", "answer": "5"}\n')
    known: dict[str, str] = {}
    accuracy = Accuracy(known)
    assert not accuracy.knows("How much is two and three?")
    known.update(Source(file).answers())
    assert Accuracy(known)(["How much is two and three?"], ["#### 5"]) == [1.0]
    assert Source().answers() == {}


def test_finished_rounds_are_not_made_again(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Student, "generate_ids", None)
    report = improve(own, rounds=2, options=OPTIONS, **HOW)
    assert report.made == ()
    assert len(report.rounds) == 3


class Killed(BaseException):
    """What ends a process in the middle of a line: nothing in udrl catches it."""


@pytest.mark.filterwarnings("ignore")
def test_killed_before_any_publication_and_continued_equals_uninterrupted(
    improved: tuple[Path, ImproveReport], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy(base, tmp_path)
    seen: set[tuple[str, bool]] = set()
    publish = {"rename": Path.rename, "replace": Path.replace}

    def killing(name: str) -> Any:
        """Dies before a file or folder is published for the first time, and again once the round has its student."""

        def call(path: Path, target: Path) -> Path:
            target = Path(target)
            if run in target.parents:
                key = str(target.relative_to(run)), (target.parent / "student").is_dir()
                if key not in seen:
                    seen.add(key)
                    raise Killed(target)
            return publish[name](path, target)

        return call

    generate = Student.generate_ids

    def once(student: Student, inputs: Any, controls: Any, **more: Any) -> Any:
        sampling = more.get("sampling")
        if sampling is not None:  # exploration, by its own temperature
            number = max(int(p.name) for p in (run / "rounds").iterdir())
            wishes = read_wishes(run / "rounds" / str(number) / "plan.jsonl")[1]
            done = len(list((run / "rounds" / str(number) / "explored").glob("*.json")))
            finished = {wish.seed for wish in wishes[: 5 * done]}
            assert not finished & set(more["seeds"]), "a finished completion was generated again"
        return generate(student, inputs, controls, **more)

    monkeypatch.setattr(Student, "generate_ids", once)
    for name in publish:
        monkeypatch.setattr(Path, name, killing(name))
    for _ in range(100):
        try:
            improve(run, rounds=2, options=OPTIONS, **HOW)
            break
        except Killed:
            continue
    names = {name for name, _ in seen}
    for made in ("run.json", "plan.jsonl", "explored/00002.json", "episodes", "student", "student/calibration.json",
                 "measured.json", "round.json"):  # fmt: skip
        assert {f"rounds/1/{made}", f"rounds/2/{made}"} <= names
    assert ("rounds/2/run.json", True) in seen, "between the student and what run.json says of its training"
    assert results(run) == results(improved[0])


def test_options_of_an_unfinished_round_hold_until_restart(own: Path) -> None:
    in_the_second_round(own)
    other = replace(OPTIONS, samples=1)
    with pytest.raises(UsageError, match=r"samples 3, now 1.*--restart"):
        improve(own, rounds=2, options=other, **HOW)
    report = improve(own, rounds=2, options=other, restart=True, **HOW)
    assert report.rounds[2].explored == 4
    with pytest.raises(UsageError, match="measured with validation_inputs=3, found validation_inputs=4"):
        improve(own, rounds=3, options=replace(OPTIONS, validation_inputs=4), **HOW)


def test_keep_returns_to_any_round_and_goes_on_from_it(own: Path, base: Path) -> None:
    for number in (2, 0):
        report = keep(own, number)
        assert report.kept == number
        assert student_bytes(own / "student") == student_bytes(own / "rounds" / str(number) / "student")
    assert student_bytes(own / "student") == student_bytes(base / "student")
    assert (own / "rounds" / "2" / "round.json").exists(), "nothing is deleted"
    with pytest.raises(UsageError, match="no finished round 7: the run has 0, 1, 2"):
        keep(own, 7)
    report = improve(own, rounds=3, options=OPTIONS, **HOW)
    assert report.rounds[3].parent == 0
    assert report.rounds[3].pool == report.rounds[3].added, "the pool of rounds that were returned from is not taken"


def test_student_that_was_trained_since_is_not_overwritten(own: Path) -> None:
    weights = own / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    before = weights.read_bytes()
    with pytest.raises(StudentError, match="is none of the students in"):
        improve(own, rounds=3, options=OPTIONS, **HOW)
    with pytest.raises(StudentError, match="is none of the students in"):
        keep(own, 0)
    assert weights.read_bytes() == before
    shutil.rmtree(own / "student")
    assert keep(own, 1).student.is_dir()


def test_diversity_floor_ends_the_rounds_and_leaves_the_student(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy(base, tmp_path)
    monkeypatch.setattr(history, "diversity_share", lambda *_: 0.94)
    guarded = replace(OPTIONS, diversity_floor=0.95, steps=2)
    report = improve(run, rounds=3, options=guarded, **HOW)
    assert report.rounds[1].verdict == history.LESS_DIVERSE
    assert report.made == (1,)
    assert report.kept == 0
    assert "under the floor of 0.95" in str(report.stopped)
    assert student_bytes(run / "student") == student_bytes(base / "student")
    assert improve(run, rounds=3, options=guarded, **HOW).made == (), "stopped stays stopped"


def test_command_explores_on_a_file_and_prints_the_rounds(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(base, tmp_path)
    file = tmp_path / "new.jsonl"
    texts = [f"how do I mend a broken {thing}" for thing in "chair lamp fence kettle clock bicycle".split()]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "{broken\n")
    small = ["--num-inputs", "8", "--samples", "4", "--steps", "2", "--batch-size", "8", "--validation-inputs", "2",
             "--sweep-inputs", "1", "--calibration-inputs", "1", "--diversity-floor", "0", "--device", "cpu",
             "--precision", "fp32"]  # fmt: skip
    arguments = ["improve", "--run", str(run), "--rounds", "1", "--inputs", str(file), *small]
    assert cli.run([*arguments, "--json"]) == 1
    assert "new.jsonl, line 7: not a line of JSON" in capsys.readouterr().err
    file.write_text(file.read_text().removesuffix("{broken\n"))
    assert cli.run([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["made"] == [1]
    assert {e.input for e in read_episodes(run / "rounds" / "1" / "episodes", kept=False) if e.round == 1} <= set(texts)
    assert cli.run(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("round  from  top")
    assert f"{run / 'student'} is that of round {report['kept']}" in out
    assert cli.run(["improve", "--run", str(run), "--keep", "0"]) == 0
    assert f"{run / 'student'} is that of round 0" in capsys.readouterr().out
    for more in (["--rounds", "2"], ["--inputs", str(file)], ["--restart"]):
        assert cli.run(["improve", "--run", str(run), "--keep", "0", *more]) == 2


def test_runs_that_cannot_be_improved_say_why(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run"):
        improve(tmp_path / "none", options=OPTIONS)
    with pytest.raises(RunError, match="has no rounds"):
        keep(base, 0)
    with pytest.raises(UsageError, match="'clicks' is no attribute of the student"):
        improve(base, options=replace(OPTIONS, reward="clicks"), **HOW)
    run = copy(base, tmp_path)
    shutil.rmtree(run / "rounds", ignore_errors=True)
    (run / "student" / "calibration.json").unlink()
    with pytest.raises(StudentError, match="is not calibrated: run udrl calibrate"):
        improve(run, options=OPTIONS, **HOW)
