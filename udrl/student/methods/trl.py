"""The methods that TRL trains, behind one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from udrl.commands import CommandSpace
from udrl.data.episodes import Episode
from udrl.errors import UsageError
from udrl.student.methods import Dpo, Grpo, Method
from udrl.student.methods.dpo import run_dpo
from udrl.student.methods.grpo import run_grpo
from udrl.student.methods.payment import payment_of
from udrl.student.methods.pool import Pool
from udrl.student.validation import Validation


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
    **driven: Any,
) -> list[Validation]:
    """Train the student in place and return its validations.

    context: ids that a prompt and its completion may have; max_tokens: most that a completion may have. held:
    validation episodes. encoder, facts: what the run was scored with. driven: what `Driver` takes.
    """
    assert isinstance(method, Dpo | Grpo)
    best, most = driven["options"].keep == "best", min(max_tokens, context // 2)  # inputs keep the other half
    if best and not held:
        raise UsageError(
            "--keep best needs validation episodes, and there are none: synthesize more inputs (udrl synth "
            "--num-inputs), or keep the last step's weights"
        )
    payment = None
    if best or isinstance(method, Grpo):
        by = f"--method {method.name}" if isinstance(method, Grpo) else "--keep best"
        payment = payment_of(method.reward, encoder, facts, needed_by=by)
        driven["watch"].max_tokens, driven["watch"].span = most, payment.span
    shared: dict[str, Any] = {"context": context, "max_tokens": most, "held": held, "payment": payment, **driven}
    if isinstance(method, Dpo):
        return run_dpo(method, pool.pairs, tokenizer, space, **shared)
    return run_grpo(method, pool.episodes, tokenizer, space, **shared)
