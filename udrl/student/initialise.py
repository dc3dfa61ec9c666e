"""A GPT-2 from scratch that can copy from its first step.

The tasks here are at heart copying: content words of the input, seen or not, have to reappear in the completion. A
randomly initialised transformer finds that skill late and suddenly, when a "previous token" head in one layer and a
matching head in the next happen to work together (induction heads: Olsson et al. 2022, arXiv 2209.11895). Here these
two heads are *written* into the initial weights, as small random projections that training is free to change
(structured initialisation in the spirit of Trockman & Kolter 2023, arXiv 2305.09828). The architecture stays GPT-2's.
"""

from __future__ import annotations

import math
from typing import Any

import torch

MATCH = 12.0
"""Peak of an induction head's attention logits over mismatching positions."""
PREVIOUS = 10.0
"""The same for the previous-token head."""
GAIN = 3.0
"""Strength with which a copied token is written into the residual stream."""


def scratch_gpt2(
    *,
    vocab_size: int,
    layers: int,
    width: int,
    heads: int,
    context: int,
    eos: int,
    seed: int,
    copying: bool = True,
) -> Any:
    """Build a ``GPT2LMHeadModel`` with random weights; ``copying`` writes the induction heads (needs two layers)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    model = GPT2LMHeadModel(config)
    if copying and layers >= 2 and heads >= 2:
        _write_induction(model)
    return model


@torch.no_grad()
def _write_induction(model: Any) -> None:
    config = model.config
    width, heads = config.n_embd, config.n_head
    size = width // heads
    generator = torch.Generator().manual_seed(int(torch.initial_seed()) % 2**31)
    # the residual stream is divided: token content | position | content of the previous token
    frequencies = min(16, size // 2)
    place = slice(width - size - 2 * frequencies, width - size)
    before = slice(width - size, width)
    token = slice(0, place.start)

    for block in model.transformer.h:  # blocks start as the identity, so that nothing drowns the written heads
        block.attn.c_proj.weight.zero_()
        block.mlp.c_proj.weight.zero_()
    wte, wpe = model.transformer.wte.weight, model.transformer.wpe.weight
    wte[:, token.stop :] = 0
    content = width - size - 2 * frequencies
    std = float(wte[:, token].std())
    angles = torch.linspace(0.05, 0.9 * math.pi, frequencies)
    steps = torch.arange(config.n_positions)[:, None] * angles[None, :]
    amplitude = std * math.sqrt(content / frequencies) * 0.7  # positions weigh about 0.7 of the content
    wpe.zero_()
    wpe[:, place] = torch.cat([torch.cos(steps), torch.sin(steps)], 1) * amplitude

    # a layer norm scales the stream so that its squared norm is `width`; the shares of its parts follow
    total = content * std**2 + frequencies * amplitude**2
    unit_place = math.sqrt(width * frequencies * amplitude**2 / total)
    unit_token = math.sqrt(width * content * std**2 / total)

    first = model.transformer.h[0].attn
    turn_cos, turn_sin = torch.diag(torch.cos(angles)), torch.diag(torch.sin(angles))
    back = torch.cat([torch.cat([turn_cos, -turn_sin], 1), torch.cat([turn_sin, turn_cos], 1)], 0)  # position - 1
    sharp = math.sqrt(PREVIOUS * math.sqrt(size)) / unit_place
    _head(first, "q", 0, size, width)[place, : 2 * frequencies] = back * sharp
    _head(first, "k", 0, size, width)[place, : 2 * frequencies] = torch.eye(2 * frequencies) * sharp
    gather = torch.randn(content, size, generator=generator) / math.sqrt(content)
    _head(first, "v", 0, size, width)[token, :] = gather
    first.c_proj.weight[:size, before] = torch.eye(size) * (
        std * math.sqrt(content) / unit_token * math.sqrt(content / size)
    )

    second = model.transformer.h[1].attn
    for head in range(max(1, min(2, heads - 1))):
        # |gather| of a token whose normalised content has norm u is about u * sqrt(size / content) * ... see above
        sharp = math.sqrt(MATCH * math.sqrt(size)) / unit_token
        _head(second, "q", head, size, width)[token, :] = gather * math.sqrt(content / size) * sharp
        _head(second, "k", head, size, width)[before, :] = torch.eye(size) * sharp
        spread = torch.linalg.qr(torch.randn(content, content, generator=generator))[0][:, :size]
        _head(second, "v", head, size, width)[token, :] = spread
        rows = slice(head * size, (head + 1) * size)
        second.c_proj.weight[rows, token] = spread.T * GAIN * std * math.sqrt(content) / unit_token


def _head(attn: Any, part: str, head: int, size: int, width: int) -> torch.Tensor:
    """Return the (width, size) view of one head's q, k or v weights, zeroed."""
    start = "qkv".index(part) * width + head * size
    view: torch.Tensor = attn.c_attn.weight[:, start : start + size]
    view.zero_()
    return view
