"""Parts of HTML that the pages are made of: the page itself, tables, definitions, figures.

Texts from outside are escaped here or by whoever calls, as each function says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

ABSENT = "–"
"""What stands where there is no figure."""

_PROSE = dict.fromkeys(("Completion", "What speaks against it", "What it says"), ' class="text"')


def page(
    *,
    title: str,
    description: str,
    nav: Sequence[tuple[str, str]],
    verdict: Iterable[str],
    body: str,
    footer: str,
    data: Mapping[str, Any] | None = None,
    script: str = "",
) -> str:
    """Return a whole page that needs no network and runs no script but ``script``.

    title, description and footer are escaped here; verdict (see ``finding``) and body are HTML already. nav: ids of
    sections and what they are called; those that ``body`` lacks are left out. data: what the script finds as JSON in
    the element ``data``.
    """
    policy = scripts = ""
    if script:
        policy = f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        scripts = (
            f'<script type="application/json" id="data">{_script_json(data or {})}</script>\n<script>{script}</script>'
        )
    links = (f'<a href="#{place}">{name}</a>' for place, name in nav if f'id="{place}"' in body)
    parts = {
        "script_policy": policy,
        "title": escape(title),
        "style": page_file("page.css"),
        "description": escape(description),
        "nav": " ".join(links),
        "verdict": "\n".join(verdict),
        "body": body,
        "footer": escape(footer),
        "scripts": scripts,
    }
    return filled("base.html", parts)


def finding(passed: bool | None, sentence: str, detail: str = "", against: Sequence[str] = (), lead: str = "") -> str:
    """Return one finding of a verdict; all texts are escaped. passed: None where it is neither good nor bad."""
    kind = {True: "yes", False: "no", None: "open"}[passed]
    said = f'<p class="small">{escape(detail)}</p>' if detail else ""
    if against:
        points = "".join(f"<li>{escape(point)}</li>" for point in against)
        said += f'<p class="against">{escape(lead)}</p><ul class="small">{points}</ul>'
    return f'<li class="{kind}"><strong>{escape(sentence)}</strong>{said}</li>'.replace(" %", "\N{NO-BREAK SPACE}%")


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Return the template of that name with ``parts``, HTML already, in the places that name them."""
    # One pass over the template alone: braces inside a user's text are never looked at.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page_file(template))


def page_file(name: str) -> str:
    """Return a file that the pages are made of."""
    return resources.files("udrl.eval.pages").joinpath("templates", name).read_text(encoding="utf-8")


def role(kind: str) -> str:
    """Return the colour role of a kind of system."""
    return {"student": "student", "baseline": "baseline"}.get(kind, "reference")


def table_of(label: str, headings: Sequence[str], rows: Iterable[str]) -> str:
    """A table that scrolls sideways where it does not fit; headings and rows are HTML already."""
    head = "".join(f"<th scope=col{_PROSE.get(heading, '')}>{heading}</th>" for heading in headings)
    # On a phone prose goes below its row's figures; more figures than fit beside each other scroll instead.
    prose = ' class="prose"' if _PROSE.keys() & set(headings) and len(headings) <= 5 else ""
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


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Colour roles with what they stand for."""
    items = (
        f'<li><span class="chip" style="background: var(--{role})"></span>{escape(meaning)}</li>'
        for role, meaning in entries
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def estimate(value: Mapping[str, Any] | None, digits: int = 2, *, key: str = "mean", interval: str = "ci95") -> str:
    """A figure with its interval below it, read from ``key`` and ``interval``."""
    if not value or value.get(key) is None:
        return ABSENT
    bounds = value.get(interval)
    return number(value[key], digits) + (below(span(bounds[0], bounds[1], digits)) if bounds else "")


def span(low: float, high: float, digits: int = 2) -> str:
    """An interval, as text."""
    low_, high_ = number(low, digits), number(high, digits)
    # A dash between negative numbers would be read as another minus.
    return f"{low_} to {high_}" if low_.startswith("-") or high_.startswith("-") else f"{low_}–{high_}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return ABSENT if value is None else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def number(value: float | None, digits: int = 2) -> str:
    """A figure with thousands set apart."""
    return ABSENT if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no "-0.00"


def below(text: str) -> str:
    """A small line under a figure; ``text`` is HTML already."""
    return f'<span class="ci">{text}</span>'


def _script_json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element or open a comment in it, and holds no line separators."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
