"""The methods that TRL trains, behind one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from udrl.commands import CommandSpace
from udrl.errors import UsageError
from udrl.rewards import computable
from udrl.rewards.base import Reward
from udrl.student.methods import Dpo, Grpo, Method
from udrl.student.methods.dpo import run_dpo
from udrl.student.methods.grpo import run_grpo
from udrl.student.methods.pool import Pool
from udrl.student.validation import Validation


def run_trl(
    method: Method,
    pool: Pool,
    tokenizer: Any,
    space: CommandSpace,
    *,
    context: int,
    max_tokens: int,
    encoder: str | None,
    facts: Mapping[str, Any],
    **driven: Any,
) -> list[Validation]:
    """Train the student in place and return its validations.

    context: ids that a prompt and its completion may have; max_tokens: most that GRPO's completions may have. encoder,
    facts: what the run was scored with. driven: what `Driver` takes.
    """
    if isinstance(method, Dpo):
        return run_dpo(method, pool.pairs, tokenizer, space, context=context, **driven)
    assert isinstance(method, Grpo)
    reward = reward_of(method.reward, encoder, facts)
    most = driven["watch"].max_tokens = min(max_tokens, context // 2)  # as in generation, inputs keep the other half
    return run_grpo(method, pool.episodes, tokenizer, space, context=context, reward=reward, max_tokens=most, **driven)


def reward_of(name: str, encoder: str | None, facts: Mapping[str, Any]) -> Reward:
    """Return the run's reward of that name; UsageError where it cannot be computed for new completions."""
    scored = facts["stages"].get("score", {})
    sources = {reward["name"]: reward["source"] for reward in scored.get("rewards", [])}
    found = computable([name], encoder=encoder or (scored.get("encoder") or {}).get("name"), sources=sources)
    if name not in found:
        raise UsageError(
            f"the reward '{name}' cannot be computed for new completions, as --method grpo needs it; the run was "
            f"scored with: {', '.join(sources) or 'nothing'}"
        )
    return found[name]
