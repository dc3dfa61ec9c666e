"""The methods that TRL trains, behind one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from udrl.commands import CommandSpace
from udrl.data.episode import Episode
from udrl.data.known_answers import Answers
from udrl.errors import UsageError
from udrl.training.methods import Dpo, Grpo, Method
from udrl.training.methods.dpo import run_dpo
from udrl.training.methods.grpo import run_grpo
from udrl.training.methods.method_data import Pool
from udrl.training.methods.payment import payment_of
from udrl.training.validation import Validation


def run_trl(
    method: Method,
    pool: Pool,
    tokenizer: Any,
    space: CommandSpace,
    *,
    context: int,
    held: Sequence[Episode],
    max_tokens: int,
    encoder: str | None,
    facts: Mapping[str, Any],
    answers: Answers,
    **driven: Any,
) -> list[Validation]:
    """Train the student in place and return its validations.

    context: ids that a prompt and its completion may have; max_tokens: most that a completion may have. held:
    validation episodes. encoder, facts: what the run was scored with; answers: the run's. Inputs that a reward of the
    payment does not know are left out; UsageError where it knows none. driven: what `Driver` takes.
    """
    assert isinstance(method, Dpo | Grpo)
    best, most = driven["options"].keep == "best", min(max_tokens, context // 2)  # inputs keep the other half
    payment = None
    if best or isinstance(method, Grpo):
        by = f"--method {method.name}" if isinstance(method, Grpo) else "--keep best"
        payment = payment_of(method.reward, encoder, facts, answers, needed_by=by)
        held = [episode for episode in held if payment.knows(episode.input)]
        driven["watch"].max_tokens, driven["watch"].span = most, payment.span
    if best and not held:
        raise UsageError(
            "--keep best needs validation inputs that the reward knows, and there are none: synthesize more inputs "
            "(udrl synth --num-inputs), or keep the last step's weights"
        )
    shared: dict[str, Any] = {"context": context, "max_tokens": most, "held": held, "payment": payment, **driven}
    if isinstance(method, Dpo):
        return run_dpo(method, pool.pairs, tokenizer, space, **shared)
    assert payment is not None
    episodes = [episode for episode in pool.episodes if payment.knows(episode.input)]
    if not episodes:
        names = ", ".join(reward.name for reward, _ in payment.parts)
        raise UsageError(f"none of the run's inputs can be scored with {names}: score the run with it to see why")
    return run_grpo(method, episodes, tokenizer, space, **shared)
