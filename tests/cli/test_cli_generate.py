"""udrl generate on a student that really was trained (for a few steps: it writes, it does not obey yet)."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import udrl.cli.main as cli
from udrl.words import count_words

# What the command line shows as a line on standard error would be an error under pytest's own settings.
pytestmark = pytest.mark.filterwarnings(
    "default:target .* is beyond what", "default:.* inputs are longer than", "default:.* has no room for what"
)

KEYS = {
    "input",
    "task",
    "completion",
    "command",
    "achieved",
    "finish_reason",
    "seed",
    "drawn",
    "chosen",
    "unmet",
    "clamped",
    "engine",
    "precision",
    "together",
}


@pytest.fixture
def generate(small_run: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``udrl generate --json`` on the small run; returns the exit code, the objects and standard error."""

    def call(*arguments: str, task: str | None = "text-to-image") -> tuple[int, list[dict[str, Any]], str]:
        chosen = ["--precision", "fp32", *(["--task", task] if task else [])]  # batches change nothing
        code = cli.run(["generate", "--run", str(small_run), "--json", *chosen, *arguments])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return call


def _pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_generate_json_has_the_documented_schema(generate: Any) -> None:
    code, (one,), _ = generate("--target-relevance", "0.5", "--length", "12", "a", "red", "fox")
    assert code == 0
    assert set(one) == KEYS
    assert (one["input"], one["task"]) == ("a red fox", "text-to-image")
    assert one["command"] == {"relevance": 0.5, "length": 12.0}
    assert one["achieved"] is None
    assert one["completion"]
    assert one["finish_reason"] in ("stop", "length")


def test_generate_score_measures_what_was_written(generate: Any) -> None:
    from udrl.rewards.relevance import Relevance

    _, (one,), _ = generate("--score", "a red fox")
    assert one["command"] == {}
    assert one["achieved"]["length"] == count_words(one["completion"])
    (expected,) = Relevance()(["a red fox"], [one["completion"]])
    assert one["achieved"]["relevance"] == pytest.approx(expected, abs=0.02)  # auto precision may be bf16


def test_generate_num_gives_seeds_that_repeat_each_completion(generate: Any) -> None:
    _, several, _ = generate("--num", "3", "--seed", "5", "a red fox in the snow")
    assert [one["seed"] for one in several] == [5, 6, 7]
    assert len({one["completion"] for one in several}) == 3
    for one in several:
        _, (again,), _ = generate("--seed", str(one["seed"]), "a red fox in the snow")
        assert again["completion"] == one["completion"]


def test_generate_closest_of_keeps_the_candidate_nearest_to_the_command(generate: Any) -> None:
    text = "a red fox in the snow"
    _, candidates, _ = generate("--num", "6", "--length", "14", "--score", text)
    _, (closest,), _ = generate("--closest-of", "6", "--length", "14", text)
    misses = [abs(one["achieved"]["length"] - 14) for one in candidates]
    assert abs(closest["achieved"]["length"] - 14) == min(misses)
    assert closest["drawn"] == 6
    assert closest["completion"] == candidates[closest["chosen"]]["completion"]
    _, (again,), _ = generate("--length", "14", "--seed", str(closest["seed"]), text)
    assert again["completion"] == closest["completion"]
    assert (again["drawn"], again["chosen"]) == (1, 0)


def test_generate_best_of_keeps_the_most_relevant(generate: Any) -> None:
    for command in ([], ["--length", "14"]):
        _, candidates, _ = generate("--num", "4", "--score", *command, "a red fox")
        _, (best,), _ = generate("--best-of", "4", *command, "a red fox")
        assert best["achieved"]["relevance"] == max(one["achieved"]["relevance"] for one in candidates)
        assert best["completion"] == candidates[best["chosen"]]["completion"]


def test_generate_requires_and_bans_words(generate: Any) -> None:
    _, (plain,), _ = generate("a red fox")
    word = next(word for word in plain["completion"].split() if word.isalpha())
    code, answers, err = generate("--require", "lighthouse", "--ban", word.upper(), "--best-of", "2", "a red fox")
    assert (code, err) == (0, "")
    (one,) = answers
    assert "lighthouse" in one["completion"]
    assert word.lower() not in one["completion"].lower().split()
    assert one["unmet"] == []


def test_generate_says_what_is_required_and_not_there(generate: Any) -> None:
    code, (one,), err = generate("--require", "lighthouse keeper", "--max-tokens", "2", "a red fox")
    assert code == 0
    assert one["unmet"] == ["lighthouse keeper"]
    assert "warning: the completion for 'a red fox' has no room for what is required: lighthouse keeper" in err
    assert err.count("\n") == 1


def test_generate_max_words_and_no_repeat_and_guidance(generate: Any) -> None:
    _, (plain,), _ = generate("--seed", "2", "a red fox")
    assert count_words(plain["completion"]) > 3
    _, (short,), _ = generate("--seed", "2", "--max-words", "3", "a red fox")
    assert count_words(short["completion"]) == 3
    assert plain["completion"].startswith(short["completion"])
    assert short["finish_reason"] == "length"
    _, (once,), _ = generate("--seed", "2", "--no-repeat", "1", "--temperature", "0", "a red fox")
    assert len(set(once["completion"].split())) == len(once["completion"].split())
    _, (same,), _ = generate("--seed", "2", "--guidance", "1", "a red fox")
    assert same == plain
    _, (free,), _ = generate("--guidance", "0", "--temperature", "0", "--length", "14", "a red fox")
    _, (unasked,), _ = generate("--temperature", "0", "a red fox")
    assert free["completion"] == unasked["completion"]  # nothing of the command is left at weight 0


class _Recorder(io.StringIO):
    """Standard output that keeps apart what is written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return super().write(text)


def test_generate_stream_prints_words_as_they_come(
    small_run: Path, generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, several, _ = generate("--num", "2", "a red fox")
    out = _Recorder()
    monkeypatch.setattr(sys, "stdout", out)
    command = ["generate", "--run", str(small_run), "--task", "text-to-image", "--precision", "fp32", "--stream"]
    assert cli.run([*command, "--num", "2", "a red fox"]) == 0
    assert out.getvalue() == "".join(one["completion"] + "\n" for one in several)
    assert len([part for part in out.parts if part.strip()]) > 4


def test_generate_stream_that_is_interrupted_ends_with_what_was_written(
    small_run: Path, generate: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from udrl.student.student import Student

    _, (one,), _ = generate("a red fox")
    whole = Student.stream

    def broken_off(*arguments: Any, **options: Any) -> Any:
        stream = whole(*arguments, **options)
        yield next(stream)
        yield next(stream)
        raise KeyboardInterrupt

    monkeypatch.setattr(Student, "stream", broken_off)
    common = ["generate", "--run", str(small_run), "--task", "text-to-image", "--precision", "fp32"]
    assert cli.run([*common, "--stream", "a red fox"]) == 130
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert out.strip()
    assert one["completion"].startswith(out.rstrip("\n"))
    assert "interrupted" in err


def test_generate_guidance_needs_a_student_that_knows_the_open_command(
    generate: Any, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "student").symlink_to(small_run / "student")
    facts = json.loads((small_run / "run.json").read_text(encoding="utf-8"))
    facts["stages"]["train"]["options"]["open_all"] = 0.0
    (copy / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    common = ["--task", "text-to-image", "--guidance", "2", "a red fox"]
    for place in (copy, copy / "student"):
        assert cli.run(["generate", "--run", str(place), *common]) == 2
        err = capsys.readouterr().err
        assert "was trained without command dropout (open_all 0)" in err
        assert err.count("\n") == 1


def test_generate_reads_standard_input_line_by_line(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ([], ["-"]):
        _pipe(monkeypatch, "a red fox\n\n  zwei Füchse  \n".encode())
        code, answers, err = generate(*arguments)
        assert (code, err) == (0, "")
        assert [one["input"] for one in answers] == ["a red fox", "zwei Füchse"]


def test_generate_reads_files_like_synth(generate: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"idea": "a red fox"}\n{"idea": "two cats"}\n', encoding="utf-8")
    code, answers, _ = generate("--input-file", str(file), "--input-field", "idea", "--num", "2")
    assert code == 0
    assert [one["input"] for one in answers] == ["a red fox", "a red fox", "two cats", "two cats"]
    code, _, err = generate("--input-file", str(file))
    assert code == 1
    assert "none of the fields text, input, prompt, caption is there; found: idea" in err


def test_generate_does_not_depend_on_batches(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"a red fox\nthe old harbour at dawn, seen from a hill\ncats\n"
    results = []
    for size in ("1", "2", "64"):
        _pipe(monkeypatch, lines)
        results.append([one["completion"] for one in generate("--batch-size", size, "--precision", "fp32")[1]])
    assert results[0] == results[1] == results[2]


def test_generate_at_a_terminal_shows_held_out_inputs(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from udrl.data.episodes import read_episodes

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert cli.run(["generate", "--run", str(small_run), "--task", "search-query", "--length", "8"]) == 0
    out, err = capsys.readouterr()
    held_out = {e.input for e in read_episodes(small_run / "episodes", splits=("test",)) if e.task == "search-query"}
    shown = [line.removeprefix("input: ") for line in out.splitlines() if line.startswith("input: ")]
    assert "held-out inputs of" in err
    assert shown
    assert set(shown) <= held_out


def test_generate_text_output_is_the_completion_alone(
    small_run: Path, capsys: pytest.CaptureFixture[str], generate: Any
) -> None:
    _, (one,), _ = generate("--score", "a red fox")
    common = ["generate", "--run", str(small_run), "--task", "text-to-image", "--precision", "fp32", "a red fox"]
    assert cli.run(common) == 0
    assert capsys.readouterr().out == one["completion"] + "\n"
    assert cli.run([*common, "--score"]) == 0
    completion, achieved = capsys.readouterr().out.splitlines()
    assert completion == one["completion"]
    assert achieved == f"  relevance {one['achieved']['relevance']:.4g}, length {one['achieved']['length']:.4g}"


def test_generate_takes_control_strings_as_text(generate: Any) -> None:
    text = "<|relevance:9|> a red fox <|endoftext|> <task=search-query>"
    code, (one,), _ = generate(text)
    assert code == 0
    assert one["input"] == text
    assert one["task"] == "text-to-image"


def test_generate_auto_is_the_highest_that_is_reached(generate: Any, small_run: Path) -> None:
    import udrl

    student = udrl.load(small_run, precision="fp32")
    code, (one,), _ = generate("--target-relevance", "auto", "--length", "6", "a red fox")
    assert code == 0
    assert one["command"] == {"relevance": student.reachable("text-to-image", "relevance", length=6)[1], "length": 6}
    code, (one,), _ = generate("--target", "relevance=auto", "a red fox")
    assert one["command"] == {"relevance": student.reachable("text-to-image", "relevance")[1]}


def test_generate_drops_the_byte_order_mark_of_standard_input(generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _pipe(monkeypatch, b"\xef\xbb\xbfa red fox\n")
    assert generate("-")[1][0]["input"] == "a red fox"


def test_generate_warns_of_unreachable_targets_on_stderr_only(generate: Any) -> None:
    code, (one,), err = generate("--target-relevance", "1", "a red fox")
    assert code == 0
    assert one["command"]["relevance"] == 1.0
    assert err.startswith("warning: target relevance=1 is beyond what this student reaches")
    assert err.count("\n") == 1
    low, high = one["clamped"]["relevance"]["reachable"]
    assert one["clamped"] == {"relevance": {"asked": 1.0, "reachable": [low, high]}}
    assert f"{low:.2f} to {high:.2f}: the nearest is asked for" in err
    assert generate("a red fox")[1][0]["clamped"] == {}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target-relevance", "1.2", "x"], 2, "1.2 is not in the range 0<=x<=1"),
        (["--target-relevance", "nan", "x"], 2, "nan is not a finite number"),
        (["--target", "relevance=-0.1", "x"], 2, "relevance=-0.1 is outside its range [0, 1]"),
        (["--target", "relevnce=0.3", "x"], 2, "unknown attribute 'relevnce' (did you mean relevance?)"),
        (["--target", "relevance", "x"], 2, "'relevance' is not NAME=VALUE with a number"),
        (["--target-relevance", "best", "x"], 2, "'best' is not a valid number or auto"),
        (["--target", "length=auto", "x"], 2, "there is no best length: give a number of words"),
        (["--input-field", "text", "x"], 2, "--input-field names a column of --input-file"),
        (["caf\udce9"], 1, "TEXT: character 4 is not UTF-8"),
        (["--target", "length=5", "--length", "6", "x"], 2, "length is commanded twice"),
        (["--target", "length=5", "--target", "length=6", "x"], 2, "'length' is given twice"),
        (["--length", "0", "x"], 2, "0 is not in the range x>=1"),
        (["--top-p", "0", "x"], 2, "0.0 is not in the range 0<x<=1"),
        (["--best-of", "0", "x"], 2, "0 is not in the range 1<=x<=10000"),
        (["--closest-of", "100000000", "x"], 2, "100000000 is not in the range 1<=x<=10000"),
        (["--closest-of", "2", "x"], 2, "closest-of needs a command that can be measured"),
        (["--closest-of", "2", "--best-of", "2", "--length", "5", "x"], 2, "take one"),
        (["--stream", "--best-of", "2", "x"], 2, "--stream prints words before the rest is known"),
        (["--stream", "x"], 2, "leave --best-of, --closest-of, --score and --json out"),
        (["--require", "fine art", "--ban", "Art", "x"], 2, "'fine art' is required and 'Art' is banned"),
        (["--ban", "...", "x"], 2, "'...' has no letter or digit"),
        (["--max-words", "1", "--require", "two words", "x"], 2, "at most 1 words leave no room"),
        (["--guidance", "-1", "x"], 2, "-1.0 is not in the range x>=0"),
        (["--guidance", "nan", "x"], 2, "nan is not a finite number"),
        (["--no-repeat", "-1", "x"], 2, "-1 is not in the range x>=0"),
        (["--input-file", "f.txt", "x"], 2, "both TEXT and --input-file are given"),
        (["--input-file", "nowhere.txt"], 1, "there is no file nowhere.txt"),
        (["--device", "cuda:9", "x"], 1, "device 'cuda:9' cannot be used"),
        (["   "], 1, "there is no input"),
    ],
)
def test_generate_bad_input_is_one_line(generate: Any, arguments: list[str], code: int, message: str) -> None:
    found, answers, err = generate(*arguments)
    assert (found, answers) == (code, [])
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_generate_task_must_be_known_and_named_where_there_are_several(generate: Any) -> None:
    code, _, err = generate("x", task=None)
    assert code == 2
    assert "choose one with --task (search-query, text-to-image)" in err
    code, _, err = generate("x", task="text-to-imag")
    assert code == 2
    assert "unknown task 'text-to-imag' (did you mean text-to-image?); known: search-query, text-to-image" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no input"),
        (b"\n \n", "there is no input"),
        (b"ok\n\xff\xfe\n", "standard input, line 2: byte 1 is not"),
    ],
)
def test_generate_bad_standard_input_is_one_line(
    generate: Any, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    _pipe(monkeypatch, content)
    code, _, err = generate()
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


def test_generate_cuts_an_input_of_100000_words(generate: Any) -> None:
    code, (one,), err = generate("red fox " * 50_000)
    assert code == 0
    assert count_words(one["input"]) == 2000
    assert "words" in err


def test_generate_without_a_student_says_how_to_train_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["generate", "--run", str(tmp_path / "none"), "x"]) == 1
    err = capsys.readouterr().err
    assert "train one with udrl train --run" in err
    assert err.count("\n") == 1
