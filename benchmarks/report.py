"""The report at scale: seconds and megabytes for many systems with long answers, and how quick the page is.

    python benchmarks/report.py [--systems 20] [--inputs 805] [--words 200] [--tasks 5] [--browser]

Writes the files of a benchmark of made-up texts and scores, then times ``udrl report``. With --browser it opens the
page (Chromium or Chrome, see docs/report.md) and times loading, an order and a search. Targets: under 60 seconds, under
15 MB; each action under half a second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from report_fakes import inputs, made

from udrl.eval.pages.benchmark import report


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("systems", 20), ("inputs", 805), ("words", 200), ("tasks", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--browser", action="store_true", help="open the page too")
    options = parser.parse_args()
    kinds = ["student"] * 3 + ["reference"] * 3 + ["recorded"] * options.systems
    systems = {f"system-{n}": (kind, 0.5 + 0.015 * n) for n, kind in enumerate(kinds[: options.systems])}
    with tempfile.TemporaryDirectory() as temporary:
        asked = inputs([f"task-{n}" for n in range(options.tasks)], options.inputs // options.tasks, words=30)
        folder = made(Path(temporary) / "bench", asked, systems=systems, words=options.words, samples=1)
        started = time.perf_counter()
        page = report(folder)
        seconds = time.perf_counter() - started
        texts = len(systems) * sum(map(len, asked.values()))
        print(f"{texts:,} texts of {options.words} words: {seconds:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        if options.browser:
            look(page)


def look(page: Path) -> None:
    """Print the seconds of loading, ordering and searching."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("UDRL_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        shown = browser.new_page()
        started = time.perf_counter()
        shown.goto(page.as_uri())
        print(f"loaded in {time.perf_counter() - started:.2f} s")
        for name, act in (
            ("ordered", "byId('order').value = 'worst'; update();"),
            ("searched", "byId('search').value = 'word17 '; update();"),
            ("searched again", "byId('search').value = 'word18 '; update();"),
        ):
            spent = shown.evaluate(f"(() => {{ const t = performance.now(); {act} return performance.now() - t; }})()")
            print(f"{name} in {spent / 1000:.3f} s: {shown.locator('#count').inner_text()}")
        browser.close()


if __name__ == "__main__":
    main()
