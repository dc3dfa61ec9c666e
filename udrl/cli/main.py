"""The entry point: finds the command, runs it, and turns whatever happens into one line and an exit code.

Exit codes: 0 done, 1 failed with one line, 2 wrong usage, 130 interrupted (everything finished is kept).
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
import select
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from udrl import __version__
from udrl.errors import UdrlError, is_out_of_memory, unknown
from udrl.training.ranks import give_way, silence

COMMANDS = (
    "demo",
    "synth",
    "score",
    "select",
    "train",
    "prefer",
    "calibrate",
    "export",
    "generate",
    "serve",
    "mcp",
    "render",
    "push",
    "report",
    "bench",
    "improve",
    "study",
    "tasks",
    "teachers",
    "init",
    "doctor",
)
"""In the order of the flow; each is ``command`` in the module of its name."""

STUDIES = ("lr-batch", "methods", "multitask", "size")
"""What ``udrl study`` compares: commands of their own, ``command`` in its module."""

ADVICE = {
    errno.ENOTDIR: "a file stands where a folder belongs, so move it or name another folder",
    errno.EISDIR: "a folder stands where a file belongs, so move it or name another file",
    errno.EEXIST: "move it or name another place",
    errno.ENOENT: "check the path, and whether something removed it meanwhile",
    errno.EACCES: "its owner or mode forbids it, so change them or name another place",
    errno.EPERM: "its owner or mode forbids it, so change them or name another place",
    errno.EROFS: "nothing can be written there, so name another place",
    errno.EMFILE: "too many files are open, so raise the limit (ulimit -n)",
}
"""What to do about a system's refusal that no part of udrl explains better."""

DEBUG = "udrl.debug"
"""Key of the flag in a click context's ``meta``, which all contexts of one call share."""


class _Commands(click.Group):
    """Imports a command's module when it is asked for. The modules import only click at the top."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"udrl.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each command explains itself: udrl COMMAND --help. Start with: udrl demo",
)
@click.version_option(__version__, prog_name="udrl", message="%(prog)s %(version)s")
def app() -> None:
    """Distil large text generators into a small one that obeys a command.

    The flow is synth, train, generate, bench; each stage reads and writes the run folder (--run).
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line on ``arguments`` (default: those of the process) and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line on ``arguments`` and return the exit code; every failure is one line on stderr."""
    context: click.Context | None = None
    warnings.showwarning = _show_warning
    _prepare_streams()
    _quiet_libraries()
    silence()
    try:
        context = app.make_context("udrl", list(arguments))
        with context:
            app.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.exceptions.NoArgsIsHelpError as nothing:
        click.echo(nothing.format_message(), err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted: what was finished is kept, and the same command continues from there", err=True)
        return 130
    except Exception as failure:  # noqa: BLE001 - the one place where everything ends as one line
        if isinstance(failure, BrokenPipeError) and _reader_left():
            return 0
        if context is not None and context.meta.get(DEBUG):
            traceback.print_exc()
        line, code = explain(failure)
        with contextlib.suppress(OSError):  # standard error may be what is full or gone
            click.echo(f"error: {line}", err=True)
        give_way()
        return code
    finally:
        _let_go_of_output()
    return 0


def _prepare_streams() -> None:
    """Give the process streams that every text can be written to, also where it was started without."""
    for name, errors in (("stdout", "json"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:  # started with the stream closed: >&-
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Write what the terminal's encoding lacks, and half of a surrogate pair, as JSON does: ``\\u00e9``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("json", _escape)


def _reader_left() -> bool:
    """Tell whether it is standard output whose reader (head, less) has seen enough, and no connection elsewhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _let_go_of_output() -> None:
    """Drop what cannot be written any more: Python would complain again while it shuts down, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _quiet_libraries() -> None:
    """Keep other libraries' bars and chatter off standard error; must come before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # ours say themselves when they show, this one does not reach them


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"warning: {message}", err=True)


def explain(failure: Exception) -> tuple[str, int]:
    """Return the one line and the exit code for ``failure``."""
    if isinstance(failure, UdrlError):
        return str(failure), failure.exit_code
    if isinstance(failure, click.UsageError):
        path = failure.ctx.command_path if failure.ctx else "udrl"
        return f"{_one_line(failure.format_message())} (see {path} --help)", 2
    if isinstance(failure, click.ClickException):
        return _one_line(failure.format_message()), failure.exit_code
    if is_out_of_memory(failure):
        return (
            "out of memory: lower what is held at once (--batch-size of udrl train and udrl generate, "
            "--limit of udrl bench), or take a smaller --student",
            1,
        )
    if _disk_full(failure):
        where = f" at {failure.filename}" if isinstance(failure, OSError) and failure.filename else ""
        return f"no space left on the disk{where}: free some and repeat the command, finished work is kept", 1
    if isinstance(failure, OSError) and failure.errno is not None:
        where = f"{failure.filename}: " if failure.filename else ""
        advice = f": {ADVICE[failure.errno]}" if failure.errno in ADVICE else ""
        return f"{where}{failure.strerror}{advice} ({type(failure).__name__}; --debug shows where)", 1
    detail = _one_line(str(failure))
    return (
        f"{type(failure).__name__}{': ' + detail if detail else ''} (a defect of udrl; --debug shows where)",
        1,
    )


def _disk_full(failure: Exception) -> bool:
    # safetensors and Arrow report a full disk in exceptions of their own, with the system's text
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return os.strerror(errno.ENOSPC) in str(failure)


def _one_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")


if __name__ == "__main__":
    main()
