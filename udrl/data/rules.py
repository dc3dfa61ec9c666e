"""The rules that keep episodes out of training, by the names that stand in their column ``rejected_by``."""

from __future__ import annotations

from collections.abc import Mapping

RULES: Mapping[str, str] = {
    "empty": "no word in it",
    "unfinished": "the teacher was cut off (by its token limit) or says that it failed",
    "refusal": "it begins by declining",
    "role_name": "it begins with a speaker (Assistant:) or holds a token of a chat template",
    "preamble": "it begins or ends with words to whoever asked (Here is your prompt: ..., The idea of ...)",
    "fenced": "it begins or ends with a markdown fence",
    "structured": "it is wrapped in JSON, or in a tag that names it, and nobody asked for that",
    "quoted": "all of it stands in one pair of quotation marks",
    "echo": "it repeats 12 words or more of the request",
    "language": "it, or a passage of it, is in another language than the request",
    "under_length": "shorter than half of the task's lower bound",
    "over_length": "longer than one and a half times the task's upper bound",
    "loop": "1 to 8 words stand at least 4 times in direct succession, 6 words or more in all",
    "duplicate": "another completion of the input says the same, word for word",
}
"""The rules of `udrl.data.cleaning` in the order in which they are tried; the first one that holds gives its name."""

OTHER_RULES: Mapping[str, str] = {
    "contaminated": "a benchmark suite asks the same input",
    "pii": "it, or its input, holds personal data",
    "copied": "it copies more of the input than all but 5 % of what teachers wrote",
    "repetitive": "it repeats its own word pairs more than all but 5 % of what teachers wrote",
    "near_duplicate": "another completion of the input says nearly the same",
    "unscored": "the return that a round explored cannot be computed for it",
    "pool_full": "the pool of a round held enough of this input, or of this return",
}
"""The rules of ``udrl.data.hygiene`` and of ``udrl.rounds``."""

MEANINGS: Mapping[str, str] = {**RULES, **OTHER_RULES}
"""What each rule says of a completion that it rejects."""
