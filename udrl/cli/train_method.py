"""The options of ``udrl train --method``: which method, and how it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from udrl.cli.numbers import Real, Whole

if TYPE_CHECKING:
    from udrl.training.methods import Method

Function = TypeVar("Function", bound=Callable[..., Any])
POSITIVE = Real(min=0, min_open=True)
OPTIONS = {
    "reward": click.option(
        "--method-reward",
        "reward",
        metavar="NAME[=WEIGHT]",
        multiple=True,
        help="top, weighted, dpo, grpo: by which reward. Default: relevance. grpo: repeatable, the weighted sum.",
    ),
    "share": click.option(
        "--share",
        metavar="X",
        type=Real(0, 1, min_open=True),
        help="top: share of each task's episodes. Default: 0.2.",
    ),
    "weight_temperature": click.option(
        "--weight-temperature",
        metavar="X",
        type=POSITIVE,
        help="weighted: an episode counts exp(z / X), z its standardised return. Default: 1.",
    ),
    "gap": click.option(
        "--gap",
        metavar="X",
        type=Real(min=0),
        help="dpo: least difference of a pair's returns, as a share of its task's range. Default: 0.25.",
    ),
    "beta": click.option(
        "--beta",
        metavar="X",
        type=POSITIVE,
        help="dpo: how strongly the start is held to. Default: 0.1; 5 with --length-normalised.",
    ),
    "length_normalised": click.option(
        "--length-normalised", is_flag=True, default=None, help="dpo: compare likelihoods a token."
    ),
    "group_size": click.option(
        "--group-size", metavar="N", type=Whole(min=2), help="grpo: completions an input. Default: 8."
    ),
    "kl": click.option(
        "--kl",
        metavar="X",
        type=Real(min=0),
        help="grpo: weight of the divergence from the start. Default: 0.04.",
    ),
    "ratio_clip": click.option(
        "--ratio-clip",
        metavar="X",
        type=Real(0, 1, min_open=True, max_open=True),
        help="grpo: how far a token's probability ratio counts. Default: 0.2.",
    ),
    "ratio_clip_high": click.option(
        "--ratio-clip-high",
        metavar="X",
        type=POSITIVE,
        help="grpo: the same upwards. Default: --ratio-clip; DAPO takes 0.28.",
    ),
    "updates": click.option(
        "--updates",
        metavar="N",
        type=Whole(min=1),
        help="grpo: steps on the same completions; with 1 nothing is clipped. Default: 2.",
    ),
    "explore_temperature": click.option(
        "--explore-temperature", metavar="X", type=POSITIVE, help="grpo: of its own sampling. Default: 1."
    ),
    "dynamic_sampling": click.option(
        "--dynamic-sampling",
        is_flag=True,
        default=None,
        help="grpo: replace groups whose completions all got one reward.",
    ),
}
FIELDS = {
    "weight_temperature": "temperature",
    "ratio_clip": "clip",
    "ratio_clip_high": "clip_high",
    "explore_temperature": "temperature",
}
"""Options whose field of the method has another name."""
LIMITS = (
    click.option(
        "--max-samples",
        metavar="N",
        type=Whole(min=1),
        help="grpo: completions that it may write and score in all; the steps are planned within.",
    ),
    click.option(
        "--max-usd",
        metavar="USD",
        type=POSITIVE,
        help="End after the step that makes the training cost as much, at --machine-usd; the student so far stays.",
    ),
    click.option("--max-minutes", metavar="X", type=POSITIVE, help="The same for its time, calibration not included."),
    click.option("--machine-usd", metavar="USD", type=Real(min=0), help="What an hour of this machine costs."),
)
OWNERS = {
    "weight_temperature": "weighted",
    "ratio_clip": "grpo",
    "ratio_clip_high": "grpo",
    "explore_temperature": "grpo",
}


def method_options(function: Function) -> Function:
    """Add --method and the options of the methods; the command receives each by name."""
    for option in reversed(LIMITS):
        function = option(function)
    function = options_of_methods(function)
    function = click.option(
        "--preset",
        metavar="NAME",
        help="A paper's hyper-parameters, for what is not given: smoltulu, smoltulu-1207, tulu3 (sft); smoltulu, tulu3 "
        "(dpo); open-rs (grpo).",
    )(function)
    return click.option(
        "--method",
        type=click.Choice(["udrl", "sft", "top", "weighted", "dpo", "grpo"]),
        default="udrl",
        show_default=True,
        help="What it is trained by: upside-down RL, or one of its alternatives (docs/methods.md).",
    )(function)


def options_of_methods(function: Function) -> Function:
    """Add the options of the methods alone, for a command that trains by several; see `by_method`."""
    for option in reversed(list(OPTIONS.values())):
        function = option(function)
    return function


def by_method(methods: Sequence[str], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each of ``methods`` those of its options that were ``given``, by the names that the method has.

    Raises UsageError for an option that none of them takes.
    """
    from udrl.errors import UsageError
    from udrl.training.methods import METHODS

    options: dict[str, dict[str, Any]] = {}
    for option in OPTIONS:
        if given[option] in (None, ()):
            continue
        field, owner = FIELDS.get(option, option), OWNERS.get(option)
        takers = [name for name in methods if owner in (None, name) and field in METHODS[name].__dataclass_fields__]
        if not takers:
            flag = "method-reward" if option == "reward" else option.replace("_", "-")
            raise UsageError(f"--{flag} belongs to none of the methods {', '.join(methods)}")
        for name in takers:
            value = given[option] if option != "reward" else _rewards(name, given[option])
            options.setdefault(name, {})[field] = value
    return options


def method_from(name: str, given: Mapping[str, Any]) -> Method:
    """Return the method of that name with those of its options that were ``given``; UsageError for another's.

    What was not given is the preset's, where one is among them.
    """
    from udrl.errors import UsageError
    from udrl.training.methods import method_of
    from udrl.training.methods.published import published

    fields: dict[str, Any] = {} if given["preset"] is None else dict(published(given["preset"], name).settings)
    for option in OPTIONS:
        if given[option] in (None, ()):
            continue
        owner = OWNERS.get(option)
        if owner not in (None, name):
            raise UsageError(f"--{option.replace('_', '-')} belongs to --method {owner}, not to {name}")
        value = given[option] if option != "reward" else _rewards(name, given[option])
        fields[FIELDS.get(option, option)] = value
    return method_of(name, fields)


def of_training(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the ``given`` options is about the training as such: the preset and the limits."""
    return {name: value for name, value in given.items() if name not in OPTIONS}


def _rewards(method: str, given: tuple[str, ...]) -> str | dict[str, float]:
    """Return one reward's name, or several rewards' weights."""
    from udrl.errors import UsageError

    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    if method != "grpo":
        raise UsageError(f"--method-reward with a weight, or several times, is for --method grpo, not for {method}")
    weights: dict[str, float] = {}
    for text in given:
        name, _, weight = text.partition("=")
        try:
            value = float(weight or 1)
        except ValueError:
            raise UsageError(f"--method-reward {text}: {weight} is no number; write NAME=WEIGHT") from None
        if name in weights:
            raise UsageError(f"--method-reward names {name} twice: once is enough")
        weights[name] = value
    return weights
