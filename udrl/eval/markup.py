"""Parts of HTML that the pages are made of: tables, definitions, figures.

Texts from outside are escaped here or by whoever calls, as each function says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

ABSENT = "–"
"""What stands where there is no figure."""

_PROSE = dict.fromkeys(("Completion", "What speaks against it", "What it says"), ' class="text"')


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Return the template of that name with ``parts``, HTML already, in the places that name them."""
    # One pass over the template alone: braces inside a user's text are never looked at.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page_file(template))


def page_file(name: str) -> str:
    """Return a file that the pages are made of."""
    return resources.files("udrl.eval").joinpath("templates", name).read_text(encoding="utf-8")


def role(kind: str) -> str:
    """Return the colour role of a kind of system."""
    return {"student": "student", "baseline": "baseline"}.get(kind, "reference")


def table_of(label: str, headings: Sequence[str], rows: Iterable[str]) -> str:
    """A table that scrolls sideways where it does not fit; headings and rows are HTML already."""
    head = "".join(f"<th scope=col{_PROSE.get(heading, '')}>{heading}</th>" for heading in headings)
    prose = ' class="prose"' if _PROSE.keys() & set(headings) else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label, quote=True)}"><table{prose}>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def row_of(head: str, cells: Iterable[str], kind: str | None = None, *, text: str | None = None) -> str:
    """A table row: head and cells are HTML already, ``text`` is a last cell of prose and is escaped."""
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    prose = f'<td class="text">{escape(text)}</td>' if text is not None else ""
    mark = f' class="{role(kind)}"' if kind is not None else ""
    return f"<tr{mark}><th scope=row>{head}</th>{body}{prose}</tr>"


def definitions(pairs: Iterable[tuple[str, str]], *, columns: bool = False) -> str:
    """Terms with their meanings, side by side where there is room for ``columns``."""
    lines = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(meaning)}</dd></div>" for term, meaning in pairs)
    return f'<dl class="small{" terms" if columns else ""}">{lines}</dl>'


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return ABSENT if value is None else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def number(value: float | None, digits: int = 2) -> str:
    """A figure with thousands set apart."""
    return ABSENT if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no "-0.00"


def below(text: str) -> str:
    """A small line under a figure; ``text`` is HTML already."""
    return f'<span class="ci">{text}</span>'
