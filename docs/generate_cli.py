"""Writes docs/cli.md from the commands' own --help; with --check, fails where the file is not up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from udrl.cli.main import COMMANDS, app

TARGET = Path(__file__).with_name("cli.md")
WIDTH = 100

HEAD = """# The command line

Written by `make docs` from the commands' own `--help`: change it there. What all commands share is
explained in [architecture.md](architecture.md#the-command-line).

Exit codes: 0 done, 1 failed (one line on standard error says why and what to do; `--debug` adds the
traceback), 2 wrong usage, 130 interrupted with everything finished kept.
"""


def render() -> str:
    """Return the whole page."""
    top = click.Context(app, info_name="udrl", terminal_width=WIDTH, max_content_width=WIDTH)
    parts = [HEAD, _section("udrl", app.get_help(top))]
    for name in COMMANDS:
        command = app.get_command(top, name)
        assert command is not None, name
        context = click.Context(command, parent=top, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
        parts.append(_section(f"udrl {name}", command.get_help(context)))
        if isinstance(command, click.Group):
            for one in sorted(command.commands):
                own = click.Context(
                    command.commands[one], parent=context, info_name=one, terminal_width=WIDTH, max_content_width=WIDTH
                )
                parts.append(_section(f"udrl {name} {one}", command.commands[one].get_help(own)))
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    body = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```\n{body}\n```\n"


if __name__ == "__main__":
    page = render()
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
            sys.exit(f"error: {TARGET.name} is not what --help says: run make docs and commit it")
    else:
        TARGET.write_text(page, encoding="utf-8")
