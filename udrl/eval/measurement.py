"""From a benchmark's completions to its scores and summary: nothing here asks anybody for a completion.

All that is needed stands in ``completions.parquet``, so that a benchmark can be scored again, with other encoders,
where neither student nor teacher is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from udrl.data.hashing import hash_int
from udrl.data.known_answers import read_answers
from udrl.encoder import Encoder, LsaEncoder, load_encoder
from udrl.errors import RunError
from udrl.eval import following, llm_judge, votes
from udrl.eval.completions import FILE, Block, Completion, SystemFacts, read_blocks, read_table, write_blocks
from udrl.eval.scores import Scores, score, write_scores
from udrl.eval.summary import build_summary, write_summary
from udrl.eval.systems import RELEVANCE
from udrl.files import user_cache
from udrl.progress import track
from udrl.rewards import load_reward

LSA = "lsa"
LSA_LEAST = 3
LSA_TEXTS = 2_000
"""The second encoder learns its axes from at most so many of a benchmark's texts: more cost minutes, for little."""


@dataclass(frozen=True)
class Judge:
    """Who judges, and what. compared: (system, reference); templates: task -> the request, with ``{input}`` in it."""

    name: str
    model: str
    compared: tuple[tuple[str, str], ...]
    templates: Mapping[str, str]

    def pairs(self, rows: Sequence[Completion]) -> list[llm_judge.Pair]:
        """Return the pairs of completions that are judged."""

        def request(task: str, text: str) -> str:
            return self.templates.get(task, "{input}").replace("{input}", text)

        return llm_judge.pairs_of(rows, self.compared, request, model=self.model)


@dataclass(frozen=True)
class ScoringSetting:
    """What scoring needs to know beside the completions; kept with them.

    references: rows that others are compared with, the leading one first. rewards: name -> where it is loaded from.
    bounds: student -> task -> attribute -> what can be reached, and the pool's 10-90 range (`following.Bounds`).
    machine_usd: price of an hour of this machine, US dollars. judge: None, or who judges what.
    """

    suite: str
    seed: int
    encoder: str
    second_encoder: str
    hardware: str
    references: tuple[str, ...]
    rewards: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    machine_usd: float | None = None
    judge: Judge | None = None


def store(folder: Path, blocks: Sequence[Block], setting: ScoringSetting, *, about: Mapping[str, Any]) -> None:
    """Write the completions with what scoring them needs; about: title, description and notes for the report."""
    write_blocks(folder, blocks, about={**about, "setting": asdict(setting)})


def load_setting(folder: Path) -> tuple[ScoringSetting, dict[str, Any]]:
    """Return the setting of the benchmark in ``folder`` and what its report says.

    Raises RunError where an interruption left it unfinished.
    """
    _, about = read_table(folder / FILE)
    if "setting" not in about:
        raise RunError(f"the benchmark in {folder} is not finished: run udrl bench again, what is there is kept")
    data = about["setting"]
    judge = None
    if data["judge"] is not None:
        compared = tuple((system, reference) for system, reference in data["judge"]["compared"])
        judge = Judge(**{**data["judge"], "compared": compared})
    return ScoringSetting(**{**data, "references": tuple(data["references"]), "judge": judge}), about


def measure(folder: Path) -> dict[str, Any]:
    """Score the completions in ``folder``, write scores.parquet and summary.json, and return the summary's contents."""
    setting, _ = load_setting(folder)
    blocks = list(read_blocks(folder).values())
    rows = [row for block in blocks for row in block.rows]
    encoder = load_encoder(setting.encoder, precision="fp32", cache=user_cache())
    second = _second_encoder(setting, rows)
    answers = {**read_answers(folder.parent.parent), **read_answers(folder)}  # of the run, and of the benchmark's files
    rewards = {name: load_reward(source, encoder=encoder, answers=answers) for name, source in setting.rewards.items()}
    with closing(track(f"bench {setting.suite}: scoring", total=None, unit="texts")) as bar:
        scores = score(rows, encoder=encoder, second=second, references=setting.references, rewards=rewards, bar=bar)
    write_scores(folder, scores, encoder=encoder.name, second_encoder=second.name)
    about = {
        "suite": setting.suite,
        "encoder": encoder.name,
        "second_encoder": second.name,
        "hardware": setting.hardware,
        "seed": setting.seed,
    }
    summary = build_summary(
        scores,
        [priced(block, setting.machine_usd) for block in blocks if "#" not in block.name],
        references=setting.references,
        about=about,
        command_following=_following(setting, scores),
        judge=None
        if (by := setting.judge) is None
        else llm_judge.figures(folder, by.name, by.model, scores=scores, pairs=by.pairs(rows)),
        votes=_votes(folder, blocks, scores),
    )
    write_summary(folder, summary)
    return summary


def _votes(folder: Path, blocks: Sequence[Block], scores: Scores) -> dict[str, Any] | None:
    """Return what people prefer by the votes that are kept with the benchmark; None where there are none."""
    kept = votes.stored(folder)
    if kept is None:
        return None
    return votes.figures(kept, votes.by_key(blocks), llm_judge.first_by_item(scores, scores.columns["relevance"]))


def priced(block: Block, machine_usd: float | None) -> SystemFacts:
    """Return the facts of ``block`` with what a student's calls cost at ``machine_usd`` an hour, in batches."""
    facts = block.facts
    tokens = sum(row.tokens or 0 for row in block.rows)
    if machine_usd is None or facts.student is None or not facts.tokens_per_second or not block.rows:
        return facts
    seconds = tokens / facts.tokens_per_second / len(block.rows)
    usd = 1000 * seconds / 3600 * machine_usd
    return replace(facts, cost=(usd, f"{1000 * seconds:.1f} ms a call in batches, {machine_usd:g} USD an hour"))


def _following(setting: ScoringSetting, scores: Scores) -> dict[str, Any]:
    by_student: dict[str, Any] = {}
    for student, tasks in setting.bounds.items():
        bounds = {task: {name: _bounds(of) for name, of in each.items()} for task, each in tasks.items()}
        names = list(dict.fromkeys(name for each in bounds.values() for name in each))
        values = {name: scores.rewards.get(name, scores.columns.get(name)) for name in names}
        for name in names:
            chosen = [i for i, row in enumerate(scores.rows) if row.system == student and row.attribute == name]
            if chosen:
                achieved = {other: column[chosen] for other, column in values.items() if column is not None}
                rows = [scores.rows[i] for i in chosen]
                by_student.setdefault(student, {})[name] = following.measure(rows, achieved, name, bounds)
    return by_student


def _bounds(of: Mapping[str, Any]) -> following.Bounds:
    low, high = of["reachable"]
    return following.Bounds((low, high), None if of["pool"] is None else (of["pool"][0], of["pool"][1]))


def bounds_of(
    student: Any, swept: Sequence[str], tasks: Sequence[str], spread: Any
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return task -> attribute -> ``reachable`` and ``pool`` of a student, as ``ScoringSetting.bounds`` keeps them.

    spread: (task, attribute) -> the pool's 10 % and 90 % quantiles, or None.
    """
    return {
        task: {
            name: {"reachable": list(student.reachable(task, name)), "pool": _listed(spread(task, name))}
            for name in swept
        }
        for task in tasks
    }


def _listed(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)


def _second_encoder(setting: ScoringSetting, rows: Sequence[Completion]) -> Encoder:
    if setting.second_encoder != LSA:
        return load_encoder(setting.second_encoder, precision="fp32", cache=user_cache())
    compared = [row for row in rows if row.part == "comparison"]
    texts = [row.input for row in compared] + [row.completion for row in compared if row.completion is not None]
    chosen = sorted(dict.fromkeys(texts), key=lambda text: hash_int("lsa", text))[:LSA_TEXTS]
    if len(chosen) < LSA_LEAST:
        raise RunError(
            f"the second encoder '{LSA}' learns from the benchmark's own texts and needs at least {LSA_LEAST} "
            f"different ones, found {len(chosen)}: add inputs, or name another --second-encoder"
        )
    return LsaEncoder.fit(chosen, seed=setting.seed)


def named_rewards(sources: Sequence[str]) -> dict[str, str]:
    """Return the rewards of ``sources`` by name -> source; raises as `load_reward` does.

    Relevance is left out: every benchmark has it.
    """
    return {load_reward(source).name: source for source in sources if source != RELEVANCE}


def judged_systems(blocks: Sequence[Block], leading: str) -> list[str]:
    """Return which systems are judged beside the ``leading`` reference: all but baselines, of a student its first row.

    The first row is the one matched in length, where there is one.
    """
    first_rows: dict[str, str] = {}
    for block in blocks:
        if "#" not in block.name and block.name != leading and block.facts.kind != "baseline":
            first_rows.setdefault(block.facts.student or block.name, block.name)
    return list(first_rows.values())
