"""The one way to an HTML page: templates that escape every text where it is put in.

So no module that computes what a page shows has to know about HTML. What is markup already says so by its type, and
only two modules may say it: this one, of the pages' own style and script, and ``svg``, of the pictures drawn there.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from udrl import __version__
from udrl.files import atomic_write

PACKAGE = "udrl.eval.pages"


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write the page to ``path``, with the folders above it, and return ``path``; see ``page_of``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, page_of(template, **values))
    return path


def page_of(template: str, **values: Any) -> str:
    """Return the page that the template of that name makes of ``values``; one that is missing is an error."""
    return environment().get_template(template).render(values)


@functools.cache
def environment() -> Environment:
    """Return what every template is rendered with."""
    made = Environment(
        loader=PackageLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": True, "separators": (",", ":")}
    made.filters["unbroken"] = _unbroken
    made.globals.update(version=__version__, static=static, digest=digest)
    return made


def static(name: str) -> Markup:
    """Return the style or script of that name, which is put into a page as it is."""
    return Markup(resources.files(PACKAGE).joinpath("templates", name).read_text(encoding="utf-8"))


def digest(name: str) -> str:
    """Return the hash by which a page's content security policy lets this script run, and no other."""
    return base64.b64encode(hashlib.sha256(static(name).encode()).digest()).decode()


def _unbroken(text: str) -> str:
    """Keep a percent sign on the line of its number."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
