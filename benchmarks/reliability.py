"""How much goes wrong when everything is done to make it: five long trials, each with what must be zero.

    python benchmarks/reliability.py [PART ...] [--folder runs/reliability] [--scale 1.0] [--seed 0]

    kills      SIGKILL at random moments over every stage, each resumed to its end and compared with an undisturbed run
    storm      requests to a server that fails in every way it can
    malformed  files, tables, YAML, checkpoints and options that are not what they should be
    hostile    texts that spell control strings and markup, through synthesis, training, generation, exports and pages
    calls      thousands of calls in one process, from several threads, and after fork

A part's trials are kept in FOLDER/PART while it runs, and go on from there; its result is FOLDER/PART.json, and a part
that has one is not run again. --scale 0.01 is a hundredth of the trials.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

from udrl.files import atomic_write

PARTS = ("kills", "storm", "malformed", "hostile", "calls")


def main() -> None:
    """Run the parts that have no result yet, and print one line a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("runs/reliability"))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    for part in options.parts or PARTS:
        result = options.folder / f"{part}.json"
        if not result.exists():
            work = options.folder / part
            work.mkdir(parents=True, exist_ok=True)
            begun = time.perf_counter()
            figures = importlib.import_module(f"faults.{part}").run(work, scale=options.scale, seed=options.seed)
            figures |= {"seed": options.seed, "scale": options.scale, "seconds": round(time.perf_counter() - begun, 1)}
            atomic_write(result, json.dumps(figures, indent=2) + "\n")
        print(part, json.dumps(json.loads(result.read_text(encoding="utf-8"))), flush=True)


if __name__ == "__main__":
    main()
