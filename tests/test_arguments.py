"""Numbers, texts and paths that are given: every option and every public function says at once what is wrong."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import click
import numpy as np
import pytest
from tiny_answering import TASK, tiny_student

import udrl
from udrl.arguments import LARGEST, RANGES, ZERO_IS_OFF, Range, check_number, checked, fitting_seed
from udrl.cli import main as cli
from udrl.cli.numbers import Real, Whole
from udrl.commands import Command
from udrl.decoding.sampling import Sampling
from udrl.errors import StudentError, UsageError
from udrl.student.answers import answer
from udrl.student.prompts import fit_prompts

NEVER = ("nan", "inf", "-inf", "-1", "1e400", "", "0x10")


def _commands(found: click.Command, name: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(found, click.Group):
        context = click.Context(found)
        for part in found.list_commands(context):
            one = found.get_command(context, part)
            assert one is not None
            yield from _commands(one, (*name, part))
    else:
        yield name, found


def _options() -> list[tuple[tuple[str, ...], click.Option]]:
    """Return every option of every command whose type is a number."""
    every = [
        one for name in cli.COMMANDS for one in _commands(importlib.import_module(f"udrl.cli.{name}").command, (name,))
    ]
    numbers = (click.types.IntParamType, click.types.FloatParamType)
    return [(n, o) for n, c in every for o in c.params if isinstance(o, click.Option) and isinstance(o.type, numbers)]


def test_every_option_that_is_a_number_has_a_type_of_ours_and_the_range_of_its_name() -> None:
    found = _options()
    assert len(found) > 120
    for command, option in found:
        assert isinstance(option.type, Whole | Real) or option.name == "seed", (command, option.name)
        range_ = RANGES.get(option.name or "")
        if range_ is not None and (option.name, command[0]) != ("patience", "improve"):
            bounds = Range(option.type.min, option.type.max, option.type.min_open, option.type.max_open)
            assert bounds == range_, (command, option.name)


def test_no_option_takes_a_number_that_is_none_or_out_of_range(capsys: pytest.CaptureFixture[str]) -> None:
    for command, option in _options():
        refused = NEVER if option.name == "seed" else (*NEVER, str(10**20)) if isinstance(option.type, Whole) else NEVER
        for text in refused:
            code = cli.run([*command, option.opts[0], text])
            err = capsys.readouterr().err
            assert code == 2, (command, option.name, text, err)
            assert err.count("\n") == 1, (command, option.name, text, err)
            assert "Invalid value for" in err, (command, option.name, text, err)


@pytest.mark.parametrize("text", ["relevance=nan", "relevance=inf", "relevance=1e400", "relevance=", "=1", "length=-1"])
def test_targets_on_the_command_line_are_numbers_too(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    code = cli.run(["generate", "--run", str(tmp_path), "--target", text, "x"])
    assert code in (1, 2), "a student that is not there is told where the number needs one to be judged"
    assert "defect" not in capsys.readouterr().err


def test_seeds_of_any_size_fit_where_libraries_take_small_ones() -> None:
    assert [fitting_seed(n) for n in (0, 7, 2**63 - 1)] == [0, 7, 2**63 - 1]
    large = 1732799428000000000 * 1_000_003
    assert 0 <= fitting_seed(large) < 2**63
    assert fitting_seed(large) != fitting_seed(large + 1)
    assert 0 <= fitting_seed(10**20, bits=32) < 2**32


def test_a_vocabulary_is_one_that_memory_holds() -> None:
    """tokenizers would end the process where it cannot have the memory."""
    check_number("vocab_size", 300_000, whole=True)
    with pytest.raises(UsageError, match=r"^vocab_size must be at least 257 and at most 1e\+06, got 999999999$"):
        check_number("vocab_size", 999_999_999, whole=True)


HOMES = ("synth", "score", "select", "train", "prefer", "bench", "improve", "render")
NEEDED = {"render": {"output": "x"}, "prefer": {"start_from": "x"}}


@pytest.mark.parametrize("name", HOMES)
@pytest.mark.parametrize("path", [None, 7, "", "a\0b", b"x"])
def test_functions_refuse_what_is_no_run(name: str, path: Any) -> None:
    more = NEEDED.get(name, {})
    with pytest.raises(UsageError, match=r"^run (must be a path|is no path)"):
        getattr(udrl, name)(path, **more)


def _numbers() -> list[tuple[str, str, bool]]:
    found = []
    for name in HOMES:
        for one in inspect.signature(getattr(udrl, name)).parameters.values():
            kind = str(one.annotation).removesuffix(" | None")
            found += [(name, one.name, kind == "int")] if kind in ("int", "float") else []
    return found


def test_functions_refuse_every_number_out_of_range(tmp_path: Any) -> None:
    """No run is there: a number that is let through ends in another error than UsageError."""
    assert len(_numbers()) > 45
    for function, name, whole in _numbers():
        low = 0 if name in ZERO_IS_OFF else 1 if name not in RANGES else RANGES[name].low
        below = -1 if not low else low - 1
        wrong: list[Any] = [float("nan"), float("inf"), "1", True, [1], 10**400, *([below] if name in RANGES else [])]
        wrong += [1.5, *([LARGEST + 1] if name != "seed" else [])] if whole else []
        for value in wrong:
            if name == "seed" and value == 10**400:
                continue
            more = NEEDED.get(function, {})
            with pytest.raises(UsageError, match=rf"^{name} must be"):
                getattr(udrl, function)(tmp_path / "none", **more, **{name: value})


@pytest.mark.parametrize("change", [{"temperature": "x"}, {"top_p": 0}, {"top_p": float("nan")}, {"max_tokens": 0},
                                    {"max_tokens": 1.5}, {"no_repeat": -1}, {"guidance": float("inf")},
                                    {"temperature": float("nan")}, {"max_tokens": True}])  # fmt: skip
def test_sampling_says_which_number_is_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(change))} must be"):
        Sampling(**change)


CALLS: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
    ({"inputs": [None]}, r"inputs\[0\] must be text, got None"),
    ({"inputs": "fox"}, "inputs must be a list of texts, got 'fox'"),
    ({"inputs": [b"fox"]}, r"inputs\[0\] must be text, got b'fox'"),
    ({"inputs": ["a\ud800b"]}, r"inputs\[0\] holds half a character at place 2"),
    ({"inputs": None}, "inputs must be a list of texts"),
    ({"commands": [None]}, r"commands\[0\] must be a udrl.Command"),
    ({"commands": Command(TASK)}, "commands must be a list of commands"),
    ({"commands": []}, "1 inputs need as many commands, got 0"),
    ({"commands": [Command(TASK, {"length": "12"})]}, "target length must be a number, got '12'"),  # type: ignore[dict-item]
    ({"commands": [Command(TASK, {"length": None})]}, "target length must be a number, got None"),  # type: ignore[dict-item]
    ({"commands": [Command(TASK, {"length": float("nan")})]}, "target length=nan is outside its range"),
    ({"commands": [Command(None)]}, "unknown task 'None'"),  # type: ignore[arg-type]
    ({"seeds": "x"}, "seeds must be a whole number, got 'x'"),
    ({"seeds": [1.5]}, "seeds must be a whole number, got 1.5"),
    ({"seeds": [1, 2]}, "1 inputs need as many seeds, got 2"),
    ({"calibrated": 1}, "calibrated must be True or False, got 1"),
    ({"temperature": 1}, "the call does not fit: got an unexpected keyword argument 'temperature'"),
]


@pytest.mark.parametrize(("change", "message"), CALLS)
def test_generate_says_what_is_wrong_with_a_call(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        STUDENT.generate(**{"inputs": ["fox"], "commands": [Command(TASK)], **change})


STUDENT = tiny_student()


def test_generate_takes_nothing_and_numbers_of_numpy() -> None:
    assert STUDENT.generate([], []) == []
    one = STUDENT.generate(
        ["fox"], [Command(TASK, {"length": np.float32(12)})], seeds=[np.int64(3)], batch_size=np.int64(2)
    )  # type: ignore[list-item, dict-item]
    assert one == STUDENT.generate(["fox"], [Command(TASK, {"length": 12.0})], seeds=[3])
    assert STUDENT.generate(["fox"], [Command(TASK)], seeds=10**30)[0].completion


def test_answers_are_checked_when_they_are_asked_for_and_as_inputs_come() -> None:
    with pytest.raises(UsageError, match="num must be at least 1, got 0"):
        answer(STUDENT, ["fox"], Command(TASK), num=0)
    with pytest.raises(UsageError, match=r"inputs\[0\] must be text, got None"):
        next(answer(STUDENT, iter([None]), Command(TASK)))  # type: ignore[list-item]
    assert list(answer(STUDENT, [], Command(TASK))) == []


@pytest.mark.parametrize("path", [None, 3, "", "a\0b"])
def test_load_refuses_what_is_no_path(path: Any) -> None:
    with pytest.raises(UsageError, match=r"^path (must be a path|is no path)"):
        udrl.load(path)


def test_checked_keeps_the_function_and_lets_other_annotations_through() -> None:
    @checked
    def example(numbers: list[int], steps: int | None = None) -> int:
        """Say."""
        return len(numbers) + (steps or 0)

    assert (example.__name__, example.__doc__, example([1], 2), example([1], steps=None)) == ("example", "Say.", 3, 1)
    with pytest.raises(UsageError, match="steps must be at least 1, got 0"):
        example([1], 0)


def test_prompts_never_exceed_a_small_context() -> None:
    for room in range(4, 40):
        made = tiny_student(context=room)
        controls = [made.space.render(TASK, {})]
        with pytest.warns(UserWarning, match="longer than the student's context"):
            [prompt] = fit_prompts(made.tokenizer, made.computes, ["fox " * 50], controls, 256)
        assert len(prompt.ids) + prompt.limit <= room
        assert prompt.limit >= 1
        assert len(prompt.ids) > len(controls[0])
        assert prompt.is_cut
    made = tiny_student(context=3)
    with pytest.raises(StudentError, match="context of 3 tokens has no room for a command of 2"):
        fit_prompts(made.tokenizer, made.computes, ["fox"], controls, None)
