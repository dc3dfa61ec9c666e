"""What to know of episodes before training on them, in sentences."""

from __future__ import annotations

from dataclasses import dataclass

from udrl.eval.pages.episodes_survey import EpisodesSurvey, length_correlation
from udrl.rewards.spread import ENOUGH, LEAST, advice

MANY_REJECTED = 0.2
TIED = 0.5


@dataclass(frozen=True)
class Check:
    """One of the sentences. passed: None where it only tells."""

    sentence: str
    passed: bool | None
    detail: str = ""


def checks(survey: EpisodesSurvey) -> list[Check]:
    """Return what speaks for and against training on the episodes."""
    return [*_spreads(survey), *_ties(survey), *_small(survey), _rejected(survey)]


def _spreads(survey: EpisodesSurvey) -> list[Check]:
    if survey.by is None:
        return [Check("Nothing is scored yet: run udrl score.", None, "Lengths alone can be looked at, and commanded.")]
    graded = {name: spreads["graded"] for name, spreads in survey.spreads.items()}
    warned = advice(graded)
    result = []
    for name, spread in graded.items():
        if spread.overall is None:
            result.append(Check(f"{name} is the same everywhere: nothing can be learned from it.", False))
            continue
        against = [warning for warning in warned if f"'{name}'" in warning.split(" lies within")[0]]
        written = survey.spreads[name].get("teacher", spread).overall
        without = (
            ""
            if written is None or _percent(written) == _percent(spread.overall)
            else (f" ({_percent(written)} without truncated and spliced episodes)")
        )
        sentence = f"{_percent(spread.overall)} of the variance of {name} lies within inputs{without}."
        why = f"At least {LEAST:.0%} are wanted: there the same input shows completions of different returns."
        detail = f"{against[0][0].upper()}{against[0][1:]}." if against else why
        enough = not against and spread.overall >= LEAST
        result.append(Check(sentence, enough, detail))
    return result


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _ties(survey: EpisodesSurvey) -> list[Check]:
    result = []
    for name in survey.spreads:
        tied = {task: length_correlation(survey.meter, task, name) for task in survey.meter.tasks}
        far = {task: rho for task, rho in tied.items() if rho is not None and abs(rho) >= TIED}
        if far:
            worst = max(far, key=lambda task: abs(far[task]))
            result.append(
                Check(
                    f"{name} and length move together in {len(far)} of {len(tied)} tasks.",
                    False,
                    f"Most in {worst}: rank correlation {far[worst]:.2f}. A student can then hardly be told to be "
                    "one without the other.",
                )
            )
    return result


def _small(survey: EpisodesSurvey) -> list[Check]:
    meter = survey.meter
    few = [task for task in meter.tasks if meter.count(task=task, split="train", kept=True) < ENOUGH]
    if not few:
        return []
    named = ", ".join(few[:5]) + (" and others" if len(few) > 5 else "")
    sentence = f"{len(few)} of {len(meter.tasks)} tasks have fewer than {ENOUGH} episodes to train on."
    return [Check(sentence, False, f"{named}: commands there have the bins of all tasks together.")]


def _rejected(survey: EpisodesSurvey) -> Check:
    count, total = sum(n for rule, n in survey.counts.items() if rule.startswith("rejected:")), survey.meter.count()
    sentence = f"{count:,} of {total:,} episodes ({count / total:.1%}) are rejected."
    share = count / total
    return Check(
        sentence,
        share < MANY_REJECTED,
        "" if share < MANY_REJECTED else "See below which rule, and whether it is right.",
    )
