"""10,000 requests through ``synth`` to a server on this machine that fails in every way it can.

Most faults pass (another try is answered), some are a request's own and come every time, and the last fifth of the
requests meet a server that is well. Nothing leaves the machine, and every wait is short.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from udrl.data.episodes import iterate_episodes
from udrl.data.finish import finish_of
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.teacher.synthesis.outcome import TooManyFailed
from udrl.teacher.synthesis.synth import synth

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from fault_server import CUT, FAULTS, FINAL, NO_TEXTS, THOUGHTS, WAITS, FaultServer

REQUESTS, SAMPLES = 10_000, 4
SHARE = 0.35
"""Share of the attempts that meet a fault which passes, or an answer in an odd form."""

OWN = 0.04
"""Share of the requests that meet the same fault every time."""

CALM = 0.8
"""From this share of the requests on the server is well."""

MOST = 32
"""Requests at once that a calm server is given in the end."""

_SECONDS, _CALM_SECONDS = 0.005, 0.2
"""What a good answer takes; when it is calm long enough for MOST requests to be under way at once."""

_WORDS = (
    "river stone lamp garden window market silver quiet harbour winter paper engine copper meadow signal orchard"
).split()
_OWN_FAULTS = (*FINAL, *CUT, "400", "422", "filtered", "refusal", "500", "choice-error")
_ODD = (*(fault for fault in FAULTS if fault not in ("stall", "drip")), *NO_TEXTS, *WAITS, *THOUGHTS)
_SLOW = ("stall", "drip")
_SLOW_SHARE = 0.004
_TASK = {
    "schema": 1,
    "name": "note",
    "title": "Notes",
    "description": "A short note.",
    "instruction": "Write a note of {min_words} to {max_words} words about: {input}",
    "length": {"min": 6, "max": 60},
}
_CARD = {
    "schema": 1,
    "name": "storm",
    "title": "Storm",
    "description": "A server that fails.",
    "backend": "openai",
    "model": "storm",
    "licence": {"name": "apache-2.0", "outputs": "no limits"},
    "sampling": [{"name": "careful", "temperature": 0.6}, {"name": "plain", "temperature": 1.0}],
    "settings": {"openai": {"max_concurrency": MOST, "timeout": 2.0, "attempts": 6, "max_wait": 60.0}},
}


class _Weather:
    """What the server does with each request, and what it wrote for whom."""

    def __init__(self, requests: int, seed: int) -> None:
        self._requests, self._rng, self._salt = requests, random.Random(seed), seed
        self._seen: set[int] = set()
        self.texts: dict[int, str] = {}
        self.met: Counter[str] = Counter()
        self.calm_peak = 0
        self.server: FaultServer | None = None

    def write(self, body: dict[str, Any]) -> str:
        """A text of 16 words, different for every request."""
        asked = json.dumps([body["messages"], body["seed"], body.get("temperature")], sort_keys=True)
        digest = hashlib.sha256(asked.encode()).hexdigest()
        text = " ".join([f"the {digest[:8]}", *(_WORDS[int(one, 16)] for one in digest[8:22])])
        self.texts[body["seed"]] = text
        return text

    @property
    def is_calm(self) -> bool:
        """The server is well from here on."""
        return len(self._seen) > CALM * self._requests

    def delay(self, body: dict[str, Any]) -> float:
        """Return the seconds that a good answer takes now."""
        return _CALM_SECONDS if self.is_calm else _SECONDS

    def plan(self, number: int, body: dict[str, Any]) -> str:
        """Return the fault of this attempt."""
        self._seen.add(body["seed"])
        own = random.Random(f"{self._salt} {body['seed']}")
        if own.random() < OWN and body["seed"]:  # seed 0: the client's own question how the server is
            what = own.choice(_OWN_FAULTS)
        elif self.is_calm:
            if self.server is not None:
                self.calm_peak = max(self.calm_peak, self.server.active)
            what = "ok"
        else:
            drawn = self._rng.random()
            what = self._rng.choice(_SLOW) if drawn < _SLOW_SHARE else self._rng.choice(_ODD) if drawn < SHARE else "ok"
        self.met[what] += 1
        return what


def run(folder: Path, *, scale: float, seed: int) -> dict[str, Any]:
    """Go through the storm, and return how it went; every figure under ``wrong`` must be zero."""
    requests = max(SAMPLES, round(REQUESTS * scale) // SAMPLES * SAMPLES)
    shutil.rmtree(folder, ignore_errors=True)  # a storm is one whole: it begins again after an interruption
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    inputs = [
        f"{' '.join(rng.sample(_WORDS, 6))} {rng.getrandbits(48):x} {rng.getrandbits(48):x}"
        for _ in range(requests // SAMPLES)
    ]
    (folder / "inputs.txt").write_text("\n".join(inputs) + "\n", encoding="utf-8")
    for name, data in (("note", _TASK), ("card", _CARD)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    weather = _Weather(requests, seed)
    began = time.perf_counter()
    with (
        FaultServer(weather.plan, retry_after="0.02", write=weather.write, delay=weather.delay) as server,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        weather.server = server
        try:
            synth(
                folder / "run",
                teacher=folder / "card.yaml",
                tasks=[folder / "note.yaml"],
                inputs=folder / "inputs.txt",
                num_inputs=len(inputs),
                samples=SAMPLES,
                seed=seed,
                score=False,
                base_url=server.url,
            )
        except TooManyFailed as error:  # more than allowed have a fault of their own; all of it is recorded
            print(error, file=sys.stderr)
        tries, answered = len(server.bodies), Counter(server.answered)
    return {
        "requests": requests,
        "attempts": tries,
        "storm_seconds": round(time.perf_counter() - began, 1),
        "kinds_of_fault": len(weather.met) - 1,
        "faults_met": sum(weather.met.values()) - weather.met["ok"],
        "calm_peak": weather.calm_peak,
        **_judged(folder / "run", requests, weather, answered),
    }


def _judged(place: Path, requests: int, weather: _Weather, answered: Counter[int]) -> dict[str, Any]:
    """Return what stands in the run, and what of it is wrong."""
    lines = list(Ledger(place / "ledger"))
    good = [line for line in lines if line.status == "ok"]
    failed = [line for line in lines if line.status != "ok"]
    whole = [line for line in good if finish_of(line.finish_reason) == "finished"]
    texts = set(weather.texts.values())
    kept = [
        one.completion
        for one in iterate_episodes(Run(place).episodes)
        if one.rejected_by is None and one.origin == "teacher"
    ]
    return {
        "completed": len(whole),
        "cut": len(good) - len(whole),
        "failed": len(failed),
        "failures": dict(Counter((line.error or "").partition(":")[0] for line in failed).most_common()),
        "episodes_kept": len(kept),
        "wrong": {
            "not_ended": requests - len({line.key for line in lines}),
            "ended_twice": len(lines) - len({line.key for line in lines}),
            "failed_without_a_reason": sum(not line.error for line in failed),
            "failed_that_would_be_answered": sum(not _has_own_fault(line.seed, weather) for line in failed),
            "completed_with_another_text": sum(line.completion != weather.texts.get(line.seed) for line in whole),
            "cut_or_thoughts_kept": sum(text not in texts for text in kept),
            "answered_twice": sum(count > 1 for seed, count in answered.items() if seed),
            "concurrency_not_recovered": int(weather.calm_peak < MOST and requests >= 5_000),
        },
    }


def _has_own_fault(seed: int, weather: _Weather) -> bool:
    return random.Random(f"{weather._salt} {seed}").random() < OWN
