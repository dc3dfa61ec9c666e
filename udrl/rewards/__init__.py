"""Rewards: named functions (input, completion) -> number, and what labels the ledger with them.

``relevance``, ``novelty``, ``accuracy``, ``format``, ``cosine_length`` and ``constraints`` are built in. A reward of
one's own is ``module:function`` (or an entry point in the group ``udrl.rewards`` of an installed package), see
docs/rewards.md:

    def brevity(inputs, completions):
        return [1 / (1 + len(text.split())) for text in completions]

    brevity.low, brevity.high = 0.0, 1.0

``udrl score --reward relevance --reward mine:brevity`` labels what there is; nothing is generated again.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from udrl.data.facts import RewardFacts, RunFacts, ScoreFacts
from udrl.data.known_answers import read_answers
from udrl.errors import RewardError, UsageError, unknown
from udrl.rewards import constraints, reasoning
from udrl.rewards.protocol import Checked, Reward, compute, compute_known, covered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from udrl.data.known_answers import Answers
    from udrl.data.run import Run
    from udrl.data.tasks import Task
    from udrl.encoder import Encoder

__all__ = [
    "BUILT_IN",
    "Reward",
    "RewardFacts",
    "as_scored",
    "canaries",
    "canary_lines",
    "computable",
    "compute",
    "compute_known",
    "covered",
    "default_rewards",
    "load_reward",
    "reward_names",
    "scored_rewards",
]

BUILT_IN = ("accuracy", "constraints", "cosine_length", "format", "novelty", "relevance")
GROUP = "udrl.rewards"
RESERVED = ("length", "task")
"""Names that commands use for something else."""


@dataclass(frozen=True)
class _Function:
    """A plain function with the attributes ``low`` and ``high`` (``unit``), as a reward."""

    function: Callable[[Sequence[str], Sequence[str]], Iterable[float]]
    name: str
    low: float
    high: float
    unit: str
    knows: Callable[[str], bool]
    needs: str

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        values = self.function(inputs, completions)
        if not isinstance(values, Iterable):
            raise RewardError(
                f"reward '{self.name}' returned {values!r} for {len(inputs)} pairs: return a list with one number for "
                "each pair"
            )
        return list(values)


def reward_names() -> list[str]:
    """Return the names that ``load_reward`` knows without a module: built in, and of installed packages."""
    return sorted({*BUILT_IN, *(entry.name for entry in metadata.entry_points(group=GROUP))})


def default_rewards(tasks: Iterable[Task]) -> tuple[str, ...]:
    """Return what episodes of ``tasks`` are scored with where nobody says: each task's own, else relevance."""
    return tuple(dict.fromkeys(name for task in tasks for name in task.rewards or ("relevance",)))


def load_reward(source: str, *, encoder: Encoder | None = None, answers: Answers | None = None) -> Reward:
    """Return the reward ``source``: a built-in name, an entry point's name, or ``module:function``.

    ``cosine_length:200`` is the built-in one with another length in words, from which it does not change any more;
    ``preference:FOLDER`` asks a reward model (``udrl prefer``).

    A module is looked for on Python's path and then in the current folder; what it names is a reward object,
    a class of one without arguments, or a function with the attributes ``low`` and ``high``. ``encoder`` is
    what relevance scores with (None: all-MiniLM-L6-v2); ``answers`` is what accuracy compares with (None: only
    generated problems have answers).

    Raises UsageError for an unknown name (with the nearest), RewardError for what is no reward.
    """
    if source == "relevance":
        from udrl.rewards.relevance import Relevance

        return Relevance(encoder)
    if source == "novelty":
        from udrl.rewards.novelty import Novelty

        return Novelty()
    name, colon, longest = source.partition(":")
    if source in ("accuracy", "format", "constraints") or (
        name == "cosine_length" and (longest.isdigit() or not colon)
    ):
        return _checkable(name, longest, answers)
    if source.startswith("preference:"):
        from udrl.rewards.preference import Preference

        return Preference(source.partition(":")[2])
    if ":" in source:
        return _as_reward(_import(source), source)
    for entry in metadata.entry_points(group=GROUP):
        if entry.name == source:
            try:
                loaded = entry.load()
            except Exception as error:  # somebody else's code, of which anything can come
                raise RewardError(
                    f"reward '{source}' ({entry.value}) cannot be loaded ({type(error).__name__}: {error}): correct "
                    "or reinstall the package that provides it"
                ) from error
            return _as_reward(loaded, source)
    raise unknown("reward", source, reward_names())


def computable(
    names: Iterable[str],
    *,
    encoder: Encoder | str | None = None,
    precision: str = "auto",
    sources: Mapping[str, str] | None = None,
    answers: Answers | None = None,
) -> dict[str, Reward]:
    """Return those of ``names`` (attributes of a student) that can be computed for new completions.

    Left out are the columns of a user's own data, whose values nobody can compute. sources: where each name
    was loaded from when the episodes were scored (``RewardFacts.source`` in run.json); a name without one is
    its own source. encoder: what relevance scores with, or its name, and then the ``precision`` to load it in
    (`as_scored` knows both of a run); answers: what accuracy compares with. Calling one raises what ``compute`` raises.
    """
    rewards: dict[str, Reward] = {}
    for name in names:
        source = (sources or {}).get(name, name)
        if ":" not in source and source not in reward_names():
            continue
        if source == "relevance" and (encoder is None or isinstance(encoder, str)):
            from udrl.encoder import MINILM, load_encoder

            encoder = load_encoder(encoder or MINILM, precision=precision)
        reward = load_reward(source, encoder=None if isinstance(encoder, str) else encoder, answers=answers)
        rewards[name] = cast("Reward", Checked(reward))
    return rewards


def as_scored(
    names: Iterable[str],
    facts: RunFacts,
    *,
    encoder: str | None = None,
    precision: str = "auto",
    answers: Answers | None = None,
) -> dict[str, Reward]:
    """Return those of ``names`` that are `computable`, as a run was scored with them; ``facts``: what is known of it.

    encoder: another one than the run's, by name. precision: see `udrl.encoder.load_encoder`; with auto the run's own
    computes in fp32 where the run was scored in fp32 (``udrl score --exact``).
    """
    scored_with = facts.score.encoder
    if precision == "auto" and encoder is None and scored_with is not None and scored_with.precision == "fp32":
        precision = "fp32"
    return computable(
        names,
        encoder=encoder or (scored_with.name if scored_with else None),
        precision=precision,
        sources=facts.score.sources,
        answers=answers,
    )


def scored_rewards(run: Run, names: Iterable[str], *, precision: str = "auto") -> dict[str, Reward]:
    """Return those of ``names`` that are `computable`, as ``run`` was scored with them and with its known answers."""
    return as_scored(names, run.facts(), precision=precision, answers=read_answers(run.path))


def canaries(reward: Reward, inputs: Sequence[str]) -> dict[str, float]:
    """Return the mean reward of completions that deserve none: a reward that pays for them will be gamed.

    empty: nothing written; echo: the input itself; repetition: the input's first word, as often as the input
    has words. Compare with the teacher's mean. Raises as ``compute`` does; needs at least one input.
    """
    if not inputs:
        raise RewardError(f"the canaries of reward '{reward.name}' need at least one input")
    repeated = [" ".join([text.split()[0]] * len(text.split())) if text.split() else "" for text in inputs]
    tried = {"empty": [""] * len(inputs), "echo": list(inputs), "repetition": repeated}
    return {
        name: sum(compute(reward, inputs, completions, names=[f"the canary '{name}'"] * len(inputs))) / len(inputs)
        for name, completions in tried.items()
    }


def canary_lines(scored: ScoreFacts) -> list[str]:
    """Return a line for each reward: what it pays for what deserves nothing, and whether it can be gamed.

    It can where that is as much as for the teacher's completions. scored: what run.json keeps of the scoring (its
    canaries, and the mean returns by origin).
    """
    lines = []
    for name, paid in scored.canaries.items():
        if not paid:  # the reward knew none of the inputs that it was tried on
            continue
        mean = scored.means.get(name, {}).get("teacher")
        told = [f"{_CANARIES[canary]} {value:.2f}" for canary, value in paid.items()]
        told += [] if mean is None else [f"the teacher's completions {mean:.2f} in the mean"]
        line = f"the reward '{name}' pays {', '.join(told)}"
        if mean is not None and any(value >= mean for value in paid.values()):
            line += (
                "; it can be gamed: command a second attribute with it and look at the copy rate, length and diversity "
                "in the report"
            )
        lines.append(line)
    return lines


def _checkable(name: str, longest: str, answers: Answers | None) -> Reward:
    """Return a built-in reward that rules compute."""
    if name == "accuracy":
        return reasoning.Accuracy(answers)
    if name == "format":
        return reasoning.Format()
    if name == "constraints":
        return constraints.Constraints()
    return reasoning.CosineLength(answers, longest=int(longest) if longest else reasoning.LONGEST)


_CANARIES = {"empty": "an empty completion", "echo": "a copy of the input", "repetition": "one word repeated"}


def _import(source: str) -> Any:
    module, _, attribute = source.partition(":")
    try:
        with _current_folder_importable():
            imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise RewardError(f"reward '{source}': {module} needs {error.name}: install it") from error
        raise UsageError(
            f"reward '{source}': no module {module} on Python's path or in {Path.cwd()}: check the name"
        ) from error
    except Exception as error:  # the user's own code, of which anything can come
        raise RewardError(
            f"reward '{source}': {module} cannot be imported ({type(error).__name__}: {error}): correct it"
        ) from error
    if not hasattr(imported, attribute):
        public = [name for name in vars(imported) if not name.startswith("_")]
        raise unknown(f"name in {module}, reward", attribute, public)
    return getattr(imported, attribute)


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """A console script does not see the modules of the folder it is called in, as ``python -m`` does."""
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.remove(str(Path.cwd()))


def _as_reward(named: Any, source: str) -> Reward:
    if isinstance(named, type):
        try:
            named = named()
        except Exception as error:
            raise RewardError(
                f"reward '{source}' cannot be made without arguments ({type(error).__name__}: {error}): name an "
                "object or function of the module instead"
            ) from error
    missing = [name for name in ("low", "high") if not isinstance(getattr(named, name, None), int | float)]
    if not callable(named) or missing:
        raise RewardError(
            f"reward '{source}' must be callable and declare its range: set the numbers "
            f"{' and '.join(missing or ['low', 'high'])} on it, as in f.low, f.high = 0.0, 1.0"
        )
    default = source.rpartition(":")[2]
    name = getattr(named, "name", default)
    if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
        raise RewardError(
            f"reward '{source}' has the name {name!r}: use letters, digits and underscores, and none of "
            f"{', '.join(RESERVED)}"
        )
    if not (named.low < named.high and math.isfinite(named.low) and math.isfinite(named.high)):
        raise RewardError(
            f"reward '{source}' declares the range [{named.low}, {named.high}]: low must be below high, both finite"
        )
    return _Function(
        named,
        name,
        float(named.low),
        float(named.high),
        str(getattr(named, "unit", "")),
        getattr(named, "knows", lambda _: True),
        str(getattr(named, "needs", "it does not know this input")),
    )
