"""The methods that TRL trains, behind one call."""

from __future__ import annotations

from dataclasses import replace

from udrl.errors import UsageError
from udrl.training.cost import Meter
from udrl.training.loop import Log
from udrl.training.methods import Dpo, Grpo
from udrl.training.methods.dpo import run_dpo
from udrl.training.methods.grpo import run_grpo
from udrl.training.methods.hosting import TrlWork
from udrl.training.methods.payment import payment_of
from udrl.training.methods.watch import Watch
from udrl.training.prepare import Prepared
from udrl.training.validation import Validation


def run_trl(prepared: Prepared, *, watch: Watch, log: Log, meter: Meter) -> list[Validation]:
    """Train the student in place and return its validations.

    watch, log: take the figures of every step; meter: what may end the training. Inputs that a reward of the payment
    does not know are left out; UsageError where it knows none.
    """
    method, material = prepared.recipe.method, prepared.material
    assert isinstance(method, Dpo | Grpo)
    most = min(prepared.max_tokens, prepared.learner.model.context // 2)  # inputs keep the other half
    work = TrlWork(prepared, watch, log, meter, max_tokens=most, validation_episodes=material.validation_episodes)
    best = prepared.plan.loop.keep == "best"
    if best or isinstance(method, Grpo):
        by = f"--method {method.name}" if isinstance(method, Grpo) else "--keep best"
        encoder = prepared.recipe.options.encoder
        payment = payment_of(method.reward, encoder, material.facts, material.answers, needed_by=by)
        known = [episode for episode in material.validation_episodes if payment.knows(episode.input)]
        work = replace(work, validation_episodes=known, payment=payment)
        watch.max_tokens, watch.span = most, payment.span
    if best and not work.validation_episodes:
        raise UsageError(
            "--keep best needs validation inputs that the reward knows, and there are none: synthesize more inputs "
            "(udrl synth --num-inputs), or keep the last step's weights"
        )
    if isinstance(method, Dpo):
        return run_dpo(method, material.pool.pairs, work)
    episodes = [episode for episode in material.pool.episodes if payment.knows(episode.input)]
    if not episodes:
        names = ", ".join(reward.name for reward, _ in payment.parts)
        raise UsageError(f"none of the run's inputs can be scored with {names}: score the run with it to see why")
    return run_grpo(method, episodes, payment, work)
