"""udrl serve: students behind the API that programs already speak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from udrl.cli.common import common_options, compute_options, emit, engine_option
from udrl.cli.numbers import Real, Whole


def _students(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    students: dict[str, Path] = {}
    for text in values:
        name, sign, folder = text.partition("=")
        if not sign or not name or not folder:
            raise click.BadParameter(f"'{text}' is not NAME=FOLDER, e.g. captions=runs/captions")
        if name in students:
            raise click.BadParameter(f"'{name}' is given twice")
        students[name] = Path(folder)
    return students


students_option = click.option(
    "--student",
    "students",
    metavar="NAME=FOLDER",
    multiple=True,
    callback=_students,
    help="Repeatable: a run folder or a student's, and the name that clients ask for. Default: the run's, by the "
    "run's name.",
)


@click.command("serve", short_help="Answer programs that speak OpenAI's API.")
@students_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", metavar="N", type=Whole(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option("--api-key-env", metavar="VAR", help="The environment variable with the key that clients must send.")
@click.option("--no-key", is_flag=True, help="Let everybody in who can connect.")
@click.option(
    "--batch-size", metavar="N", type=Whole(min=1), default=64, show_default=True,
    help="Completions of a student that are written at once.",
)  # fmt: skip
@click.option(
    "--queue", metavar="N", type=Whole(min=0), default=256, show_default=True,
    help="How many more may wait; then requests are refused with 429 for a while.",
)  # fmt: skip
@click.option(
    "--timeout", metavar="SECONDS", type=Real(min=0, min_open=True), default=60.0, show_default=True,
    help="How long a request may take.",
)  # fmt: skip
@click.option(
    "--grace", metavar="SECONDS", type=Real(min=0), default=30.0, show_default=True,
    help="How long requests under way may go on once the server is told to end.",
)  # fmt: skip
@click.option(
    "--allow-origin", "origins", metavar="URL", multiple=True,
    help="Repeatable: web pages of this origin may ask, such as http://localhost:3000.",
)  # fmt: skip
@click.option("--log-texts", is_flag=True, help="Log inputs and completions; otherwise no text is logged.")
@compute_options
@engine_option
@common_options(seed=False)
def command(
    *,
    run: Path,
    students: dict[str, Path],
    host: str,
    api_key_env: str | None,
    no_key: bool,
    origins: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> None:
    """Answer programs that speak OpenAI's API (/v1/chat/completions, /v1/completions, /v1/models).

    Commands are further fields (task, relevance, length, target, ...), or stand behind the student's name
    (captions:relevance=0.6,length=20). Requests are written together. /health, /ready and /metrics tell how it
    is; one line of JSON a request goes to standard error. SIGTERM and Ctrl-C end it when what is under way is
    written.

    Needs pip install 'udrl[serve]'. On a host that others can reach, --api-key-env or --no-key must be given.
    """
    from udrl.serve.options import ServeOptions, chosen_key
    from udrl.serve.server import serve

    key = chosen_key(host, api_key_env, no_key)
    options = ServeOptions(students or of_run(run), host, key=key, origins=origins, **given)

    def started(url: str) -> None:
        names = ", ".join(options.students)
        emit({"url": url, "students": list(options.students)}, as_json=as_json, text=f"{names} at {url}/v1")

    serve(options, started)


def of_run(run: Path) -> dict[str, Path]:
    """Return the run's student by the run's name."""
    resolved = run.resolve()
    folder = resolved.parent if resolved.name == "student" else resolved
    return {folder.name: run}
