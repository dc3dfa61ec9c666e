"""The frame of the command line: help, exit codes, one-line errors, machine output, configuration files."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import udrl.cli.main as cli
from udrl.cli.common import common_options, emit, plain
from udrl.errors import RunError, UsageError

HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "datasets",
    "sklearn",
    "pandas",
    "pyarrow",
    "numpy",
)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A command ``probe`` of the real group: it emits its options, or does what ``action`` says."""
    state = SimpleNamespace(action=lambda: None)

    @click.command("probe")
    @click.option("--num-inputs", type=click.IntRange(min=1), default=5)
    @click.option("--task", "tasks", multiple=True)
    @click.option("--target", "targets", multiple=True)
    @common_options()
    def command(
        run: Path,
        *,
        seed: int,
        num_inputs: int,
        tasks: tuple[str, ...],
        targets: tuple[str, ...],
        as_json: bool,
    ) -> None:
        state.action()
        seen = {"run": run, "seed": seed, "num_inputs": num_inputs, "tasks": tasks, "targets": targets}
        emit(seen, as_json=as_json, text="probed")

    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "probe"))
    monkeypatch.setattr("udrl.cli.common.COMMANDS", (*cli.COMMANDS, "probe"))
    monkeypatch.setitem(sys.modules, "udrl.cli.probe", SimpleNamespace(command=command))  # type: ignore[arg-type]
    return state


def _raise(failure: BaseException) -> None:
    raise failure


# -- help -----------------------------------------------------------------------------------------------


def test_help_of_every_command_imports_nothing_heavy() -> None:
    """One process asks for every help in turn and then lists what it imported."""
    script = (
        "import sys; import udrl.cli.main as cli\n"
        "names = ('', *cli.COMMANDS, *(f'study {study}' for study in cli.STUDIES))\n"
        "codes = [cli.run([*name.split(), '--help']) for name in names]\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules], 'CODES', set(codes))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for name in cli.COMMANDS:
        assert f"Usage: udrl {name} " in out
    assert out.endswith("HEAVY [] CODES {0}\n")


def test_help_takes_well_under_a_second() -> None:
    """Processor time, not the clock's: other work on the machine must not decide."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "udrl", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.9


def test_help_names_the_common_options_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    alone = [[name] for name in cli.COMMANDS if name != "study"]
    for name in [*alone, *(["study", study] for study in cli.STUDIES)]:
        assert cli.run([*name, "--help"]) == 0
        text = capsys.readouterr().out
        for option in ("--run", "--seed", "--config", "--json", "--debug", "--help"):
            assert option in text, (name, option)


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from udrl import __version__

    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"udrl {__version__}\n"


def test_cli_docs_are_up_to_date() -> None:
    script = Path(__file__).parents[2] / "docs" / "generate_cli.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- exit codes and one-line errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["snyth"], 2, "error: unknown command 'snyth' (did you mean synth?); known: "),
        (["tasks", "--verbos"], 2, "error: No such option"),
        (["doctor", "--run"], 2, "error: Option '--run' requires an argument (see udrl "),
        (
            ["probe", "--num-inputs", "x"],
            2,
            "error: Invalid value for '--num-inputs': 'x' is not a valid integer",
        ),
        (["probe", "--num-inputs", "0"], 2, "error: Invalid value for '--num-inputs'"),
        (["--nonsense"], 2, "error: No such option"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    probe: SimpleNamespace, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, line: str
) -> None:
    assert cli.run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_no_arguments_show_help_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: udrl")


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        (
            RunError("the run is locked by process 7: wait for it"),
            1,
            "the run is locked by process 7: wait for it",
        ),
        (UsageError("relevance=2 is outside [0, 1]"), 2, "relevance=2 is outside [0, 1]"),
        (ValueError("first\nsecond"), 1, "ValueError: first second (a defect of udrl; --debug shows where)"),
        (MemoryError(), 1, "out of memory: lower what is held at once (--batch-size"),
        (
            RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: you tried"),
            1,
            "out of memory: lower",
        ),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 1, "out of memory: lower"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/part"),
            1,
            "no space left on the disk at runs/x/part: ",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "runs/x"),
            1,
            "runs/x: Not a directory: a file stands where a folder belongs, so move it or name another folder (NotADir",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            1,
            "no space left on the disk: free",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 1, "runs/x: Permission denied"),
    ],
)
def test_failures_are_one_line_without_a_traceback(
    probe: SimpleNamespace, capsys: pytest.CaptureFixture[str], failure: Exception, code: int, line: str
) -> None:
    probe.action = lambda: _raise(failure)
    assert cli.run(["probe"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_debug_adds_the_traceback_and_keeps_the_exit_code(
    probe: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    probe.action = lambda: _raise(UsageError("wrong"))
    assert cli.run(["probe", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: wrong\n")


def test_interrupt_exits_with_130_and_says_that_work_is_kept(
    probe: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    probe.action = lambda: _raise(KeyboardInterrupt())
    assert cli.run(["probe"]) == 130
    assert "interrupted: what was finished is kept" in capsys.readouterr().err


def test_warnings_are_one_line_on_stderr(probe: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        probe.action = lambda: warnings.warn("clamped to 0.4", stacklevel=1)
        assert cli.run(["probe"]) == 0
    assert capsys.readouterr() == ("probed\n", "warning: clamped to 0.4\n")


def test_closed_pipe_ends_quietly() -> None:
    """The reader closes before anything is written, as `head` may."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "udrl", "init", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_broken_connection_is_no_closed_pipe(probe: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    """Only where the reader of standard output has left has the command done what it was asked for."""
    probe.action = lambda: _raise(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert cli.run(["probe"]) == 1
    assert capfd.readouterr().err == "error: Broken pipe (BrokenPipeError; --debug shows where)\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_commands_start_without_standard_streams(closed: str) -> None:
    command = f"exec {sys.executable} -m udrl init --help {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: udrl init") == (not closed.startswith(">"))


def test_texts_that_the_terminal_cannot_show_are_escaped_as_json_does(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from udrl.cli import main as m; import click\n"
        "m.app.invoke = lambda context: click.echo('\"caf\\u00e9 \\U0001f98a \\ud83d\"')\n"
        "sys.exit(m.run(['init']))",
    ]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b'"caf\xe9 \\ud83e\\udd8a \\ud83d"\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to write to")
def test_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "udrl", "init", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "error: no space left on the disk: free some and repeat the command, finished work is kept\n"


# -- machine output -------------------------------------------------------------------------------------


def test_json_is_one_object_on_stdout(probe: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["probe", "--json", "--seed", "3", "--run", "runs/x"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"run": "runs/x", "seed": 3, "num_inputs": 5, "tasks": [], "targets": []}
    assert out.count("\n") == 1
    assert err == ""


def test_plain_turns_what_is_not_json_into_what_is() -> None:
    import numpy as np

    data = {1: float("nan"), "path": Path("a/b"), "n": np.float32(0.5), "flag": np.bool_(True), "set": (1, 2)}
    assert plain(data) == {"1": None, "path": "a/b", "n": 0.5, "flag": True, "set": [1, 2]}
    with pytest.raises(TypeError, match="a function cannot be written"):
        plain(plain)


# -- configuration files --------------------------------------------------------------------------------


def _probe_with(config: str, folder: Path, *arguments: str) -> list[str]:
    file = folder / "config.yaml"
    file.write_text(config, encoding="utf-8")
    return ["probe", "--json", "--config", str(file), *arguments]


@pytest.mark.parametrize("config", ["num-inputs: 7\ntask: [a, b]\nseed: 2", "num_inputs: 7\ntask: [a, b]\nseed: 2"])
def test_config_gives_defaults(
    probe: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    assert cli.run(_probe_with(config, tmp_path)) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["num_inputs"], seen["tasks"], seen["seed"]) == (7, ["a", "b"], 2)


def test_config_is_overridden_by_the_command_line(
    probe: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(_probe_with("num-inputs: 7\ntask: [a, b]", tmp_path, "--num-inputs", "8", "--task", "c")) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["num_inputs"], seen["tasks"]) == (8, ["c"])


def test_config_with_sections_serves_several_commands(
    probe: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = "run: runs/a\nseed: 1\nprobe:\n  num-inputs: 9\n  seed: 4\ntrain:\n  student: gpt2\nbench:\n"
    assert cli.run(_probe_with(config, tmp_path)) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["run"], seen["seed"], seen["num_inputs"]) == ("runs/a", 4, 9)


def test_config_takes_a_mapping_for_name_value_options(
    probe: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(_probe_with("target: {relevance: 0.5, clicks: 3}\ntask: solo", tmp_path)) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["targets"], seen["tasks"]) == (["relevance=0.5", "clicks=3"], ["solo"])


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
"""Eleven lines that spell out to nine to the power of eleven values."""


@pytest.mark.parametrize(
    ("config", "parts", "code"),
    [
        ("num-input: 7", ["udrl probe has no option 'num-input' (did you mean num-inputs?)", "known: "], 1),
        (
            "seed: 1\nprobe:\n  sead: 7",
            ["section probe: udrl probe has no option 'sead' (did you mean seed?)"],
            1,
        ),
        ("probe:\n  seed: 7\nworkers: 3", ["'workers' stands beside the sections of commands"], 1),
        ("num-inputs: [1, 2]", ["'num-inputs' takes one value, not a list"], 1),
        ("num-inputs: many", ["Invalid value for '--num-inputs': 'many' is not a valid integer"], 2),
        ("- a\n- b", ["must hold 'key: value' lines"], 1),
        ("a: [1", ["not valid YAML"], 1),
        ("seed: 2024-13-01", ["--seed", "2024-13-01"], 2),
        ("seed: " + "9" * 5000, ["--seed", "99999"], 2),
        ("seed: " + "[" * 3000, ["is nested too deeply"], 1),
        ("seed: &a [*a]", ["not valid YAML (more than 100,000 values, with what its aliases stand for)"], 1),
        (BOMB, ["not valid YAML (more than 100,000 values, with what its aliases stand for)"], 1),
    ],
)
def test_config_errors_name_file_and_key(
    probe: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: str,
    parts: list[str],
    code: int,
) -> None:
    assert cli.run(_probe_with(config, tmp_path)) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for part in [*parts, *(["config.yaml"] if code == 1 else [])]:
        assert part in err


def test_config_that_is_missing_is_one_line(probe: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["probe", "--config", "nowhere.yaml"]) == 1
    assert capsys.readouterr().err == ("error: there is no configuration file nowhere.yaml: check the path\n")
