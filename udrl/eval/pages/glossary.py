"""What the pages say in plain words: the meaning of every column, system and figure."""

from __future__ import annotations

QUALITY: tuple[tuple[str, str, str], ...] = (
    (
        "relevance",
        "Relevance",
        "How close the completion's meaning is to its input's: cosine of two sentence embeddings, 0 "
        "to 1. Higher is not always better: repeating the input gives 1, and short completions "
        "score higher than long ones. So read it beside length and copy rate.",
    ),
    (
        "anchored",
        "Anchored",
        "The same on a scale where 0 is a completion for some other input (shuffled) and 1 is the reference.",
    ),
    (
        "agreement",
        "Agreement",
        "How close the completion is to the reference's completion for the same input. The "
        "reference's own row shows the ceiling: how close two of its own completions are.",
    ),
    (
        "relevance_second",
        "Second encoder",
        "Relevance by another measure, which took no part in training. If it tells another story, distrust both.",
    ),
    (
        "length",
        "Words",
        "Mean length of a completion in words.",
    ),
    (
        "copy_rate",
        "Copies",
        "Share of the completion that is taken from the input in the same order. 1 means nothing was added.",
    ),
    (
        "novelty",
        "Novel",
        "Share of the completion's four-word sequences that are not in the input.",
    ),
    (
        "distinct_2",
        "Distinct‑2",
        "Share of different word pairs among completions for different inputs (below: for the same "
        "input). Low values mean that everything sounds alike.",
    ),
    (
        "pairwise_distance",
        "Spread",
        "Mean embedding distance between completions for different inputs (below: for the same input).",
    ),
)
"""Key, heading and meaning of every column of the table of what systems write."""

COST: tuple[tuple[str, str, str], ...] = (
    (
        "parameters",
        "Size",
        "Number of parameters of the model.",
    ),
    (
        "latency",
        "Latency",
        "Milliseconds for one request end to end on this machine: the median and, below, the value "
        "that 95 % stay under.",
    ),
    (
        "tokens_per_second",
        "Tokens/s",
        "Completion tokens a second when many requests are answered together (below: how many).",
    ),
    (
        "cost",
        "$ for 1,000",
        "US dollars for 1,000 calls; below, what that is made of.",
    ),
    (
        "answered",
        "Answered",
        "Share of the inputs with a completion.",
    ),
    (
        "failed",
        "Failed",
        "Requests that brought no completion.",
    ),
    (
        "ends",
        "Ends",
        "Share of completions that ended by themselves; below, how many were cut at the token limit.",
    ),
    (
        "truncated",
        "Half read",
        "Completions of which the encoder read only the start, because they are longer than it can read.",
    ),
)
"""Key, heading and meaning of every column of the table of what systems take."""

SYSTEMS: tuple[tuple[str, str], ...] = (
    (
        "@matched",
        "the student, commanded to the reference's mean length in each task and to the highest "
        "relevance it reaches at that length: the fairest row to compare",
    ),
    (
        "@top",
        "the student, commanded to its highest relevance, whatever the length",
    ),
    (
        "@open",
        "the student without any command",
    ),
    (
        "echo",
        "the input itself: shows what relevance alone would reward",
    ),
    (
        "shuffled",
        "the reference's completion for another input: the floor",
    ),
    (
        "nearest",
        "the completion of the most similar training input: what memory alone achieves",
    ),
)
"""Name (or, from @, the part of a name) and meaning of the systems."""

FIGURES: tuple[tuple[str, str, str], ...] = (
    (
        "spearman_within_input",
        "Rank correlation within an input",
        "1: for one and the same input, every larger command gave more; 0: commands had no effect. "
        "Single completions, chance included.",
    ),
    (
        "spearman",
        "The same, averaged over seeds",
        "Chance averaged out: how well the tendency follows the command.",
    ),
    (
        "error",
        "Error",
        "How far a single completion misses its target, in units of {unit}.",
    ),
    (
        "range",
        "Range",
        "From the lowest to the highest level, as a share of the middle 80 % of what the teacher's "
        "own completions achieve. Near 1: the whole range can be commanded.",
    ),
    (
        "violations",
        "Violations",
        "Steps between neighbouring levels at which asking for more gave significantly less.",
    ),
)
"""Key, heading and meaning of the figures of command following."""

LEAKAGE = (
    "How far {other} moves along although it is commanded to stay at its median, as a share of its range. 0 is best."
)
DIVERSITY = (
    "Distinct-2 within a task: up and to the right is better. A system that is relevant but says the same everywhere "
    "stands on the left."
)
LATENCY = (
    "Median latency of one request on this machine, on a logarithmic scale: up and to the left is better. No system "
    "left of the line is as relevant as one on it. Systems that were not timed are absent."
)
SIZE = "Parameters, on a logarithmic scale: up and to the left is better. Systems of unknown size are absent."
FIGURE_NAMES = {
    "relevance": "relevance",
    "relevance_second": "relevance by the second encoder",
    "agreement": "agreement with the reference",
    "copy_rate": "copy rate",
    "length": "length in words",
    "distinct_2 of one input": "distinct-2 of one input",
}
"""What the figures of a comparison are called."""
