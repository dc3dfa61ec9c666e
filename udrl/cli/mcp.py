"""udrl mcp: students as tools of assistants that speak the Model Context Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from udrl.cli.common import common_options, compute_options, engine_option
from udrl.cli.serve import of_run, students_option


@click.command("mcp", short_help="Be tools of assistants (Model Context Protocol).")
@students_option
@compute_options
@engine_option
@common_options(seed=False)
def command(*, run: Path, students: dict[str, Path], as_json: bool, **given: Any) -> None:
    """Give assistants tools by the Model Context Protocol, over standard input and output.

    The tools are rewrite (task, relevance, length, target, variants, seed), reachable and students. An assistant
    starts this command by itself: docs/mcp.md has the configuration. It ends when its standard input does.

    Needs pip install 'udrl[mcp]'.
    """
    from udrl.serve.mcp import serve_mcp
    from udrl.serve.options import ServeOptions

    serve_mcp(ServeOptions(students or of_run(run), **given))
