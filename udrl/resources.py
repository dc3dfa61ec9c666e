"""Finds the files that a user edits: ``teacher/``, ``data/`` and ``eval/``.

In a wheel they ship as ``udrl._shipped.*`` (``package_dir`` in setup.cfg); in a checkout, installed as editable or
not at all, they are the folders beside the package. Nothing else in udrl builds a path to them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from udrl.errors import UdrlError

Kind = Literal["teacher", "data", "eval"]


def folder(kind: Kind) -> Path:
    """Return the folder of ``kind`` as it ships with this installation.

    Raises UdrlError where neither place holds it, which means a damaged installation.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "_shipped" / kind, package.parent / kind):
        if candidate.is_dir():
            return candidate
    raise UdrlError(f"the folder '{kind}' is neither in {package / '_shipped'} nor in {package.parent}: reinstall udrl")
