"""What goes wrong with DPO and GRPO, seen while they train: a figure in the progress line, and once a line of advice.

zero_variance   share of the groups whose completions all got one reward: they teach nothing
unscored        share of the completions that a reward cannot be computed for: they teach nothing
clipped         share of the completions that were cut instead of ending
length          tokens of a completion: collapsing or exploding, it shows that a reward is gamed
reward          falling from its peak, it shows that the training is unstable
chosen_change   by how many nats the chosen completions have become more likely; DPO may lower both sides of a pair
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from statistics import fmean

from udrl.progress import note
from udrl.training.methods import Dpo, Grpo, Method

WINDOW = 20
"""Steps that a figure is averaged over before there is advice."""
MOST_FLAT = 0.5
MOST_CLIPPED = 0.2
LEAST_CHANGE = -1.0
SHORTER, LONGER = 0.5, 2.0
"""Mean length, as a share of that of the first steps, at which there is advice."""
FALLEN = 0.1
"""By how much of what can be paid at most the mean reward may fall from its peak."""
WATCHED = (
    "zero_variance",
    "unscored",
    "clipped",
    "length",
    "chosen_change",
    "reward",
    "reward_std",
    "margin",
    "accuracy",
    "kl",
)


class Watch:
    """Takes the figures of every step. advice: every line that was given.

    scored: reward calls so far; judged: those beside them that only validation made. span: how far the rewards of two
    completions can differ. recalled: what an interrupted training has to remember, see `recall`.
    """

    def __init__(self, method: Method, *, scored: int = 0, learning_rate: float = 0.0, max_tokens: int = 0) -> None:
        """Watch a training of ``method``; the rest is what advice refers to."""
        self.method = method
        self.scored, self.judged = scored, 0
        self.span = 1.0
        self.recalled: dict[str, float] = {}
        self.learning_rate = learning_rate
        self.max_tokens = max_tokens
        self.advice: list[str] = []
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._given: set[str] = set()

    def take(self, figures: Mapping[str, float]) -> None:
        """Take one step's figures; what is not watched is ignored."""
        for name in WATCHED:
            if name in figures:
                self._recent[name].append(figures[name])
        self._remember()
        self._advise(WINDOW)

    def recall(self, recalled: Mapping[str, float]) -> None:
        """Take up what an interrupted training remembered: the first steps' mean length, the highest mean reward."""
        self.recalled = dict(recalled)

    def _remember(self) -> None:
        full = {name: fmean(values) for name, values in self._recent.items() if len(values) == WINDOW}
        if "length" in full:
            self.recalled.setdefault("length", full["length"])
        if "reward" in full:
            self.recalled["reward"] = max(full["reward"], self.recalled.get("reward", full["reward"]))

    def finish(self) -> None:
        """Give the advice for a training of fewer steps than the window has."""
        self._advise(1)

    @property
    def means(self) -> dict[str, float]:
        """The means over the last steps, by name."""
        return {name: fmean(values) for name, values in self._recent.items()}

    def _advise(self, least: int) -> None:
        means = {name: fmean(values) for name, values in self._recent.items() if len(values) >= least}
        for name, line in self._lines(means).items():
            if name not in self._given:
                self._given.add(name)
                self.advice.append(line)
                note(line)

    def _lines(self, means: Mapping[str, float]) -> dict[str, str]:
        lines = {}
        if isinstance(self.method, Grpo) and means.get("zero_variance", 0.0) > MOST_FLAT:
            again = "" if self.method.dynamic_sampling else ", or replace such groups with --dynamic-sampling"
            lines["zero_variance"] = (
                f"{means['zero_variance']:.0%} of the groups got one reward for all their completions and teach "
                f"nothing: raise --explore-temperature (now {self.method.temperature:g}) or --group-size "
                f"(now {self.method.group_size}){again}"
            )
        if isinstance(self.method, Grpo) and means.get("unscored", 0.0) > 0:
            lines["unscored"] = (
                f"{means['unscored']:.0%} of the completions cannot be scored (in a script that the encoder does not "
                "know) and teach nothing: name an encoder that knows it with --encoder"
            )
        if isinstance(self.method, Grpo) and means.get("clipped", 0.0) > MOST_CLIPPED:
            lines["clipped"] = (
                f"{means['clipped']:.0%} of the completions were cut at {self.max_tokens} tokens instead of ending: "
                "start from a student that ends them (udrl train --method sft), or lower --explore-temperature (now "
                f"{self.method.temperature:g}) or --learning-rate (now {self.learning_rate:g})"
            )
        if isinstance(self.method, Grpo):
            lines |= self._unstable(self.method, means)
        if isinstance(self.method, Dpo) and means.get("chosen_change", 0.0) < LEAST_CHANGE:
            normal = "" if self.method.length_normalised else ", or normalise by length (--length-normalised)"
            lines["chosen_change"] = (
                f"the chosen completions have become less likely, by {-means['chosen_change']:.1f} nats each: lower "
                f"--learning-rate (now {self.learning_rate:g}), raise --beta (now {self.method.strength:g}){normal}"
            )
        return lines

    def _unstable(self, method: Grpo, means: Mapping[str, float]) -> dict[str, str]:
        lines = {}
        first, length = self.recalled.get("length"), means.get("length")
        calmer = f"raise --kl (now {method.kl:g}) or lower --learning-rate (now {self.learning_rate:g})"
        if first and length is not None and not SHORTER <= length / first <= LONGER:
            way = "shorter" if length < first else "longer"
            lines["length"] = (
                f"completions have become {way}, from {first:.0f} to {length:.0f} tokens: if you did not want that, "
                f"pay for length, too (--method-reward, repeatable), {calmer}"
            )
        peak, reward = self.recalled.get("reward"), means.get("reward")
        if peak is not None and reward is not None and peak - reward > FALLEN * self.span:
            lines["reward"] = (
                f"the mean reward has fallen from {peak:.2f} to {reward:.2f}: keep the best weights (--keep best), or "
                f"{calmer}"
            )
        return lines
