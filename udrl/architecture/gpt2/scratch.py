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

from udrl.arguments import fitting_seed

MATCH = 12.0
"""Peak of an induction head's attention logits over mismatching positions."""
PREVIOUS = 10.0
"""The same for the previous-token head."""
SECOND = 1.2
"""Weight of the second token in the match, beside the last one's 1."""
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

    torch.manual_seed(fitting_seed(seed))
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
    """Write the heads. Layer 1: one head copies the previous token's content into a part of the residual stream of its
    own, a second head the content of the token before that. Layer 2: heads look for the place whose two previous
    tokens are the current token and its predecessor, and copy the token that stands there.
    """
    config = model.config
    width, heads = config.n_embd, config.n_head
    size = width // heads
    generator = torch.Generator().manual_seed(int(torch.initial_seed()) % 2**31)
    # the residual stream is divided: token content | position | content of the last token | of the one before
    frequencies = min(16, size // 2)
    near, far = size - size // 3, size // 3
    position = slice(width - size - 2 * frequencies, width - size)
    before, earlier = slice(width - size, width - far), slice(width - far, width)
    token = slice(0, position.start)
    content = position.start

    for block in model.transformer.h:  # blocks start as the identity, so that nothing drowns the written heads
        block.attn.c_proj.weight.zero_()
        block.mlp.c_proj.weight.zero_()
    wte, wpe = model.transformer.wte.weight, model.transformer.wpe.weight
    wte[:, token.stop :] = 0
    std = float(wte[:, token].std())
    angles = torch.linspace(0.05, 0.9 * math.pi, frequencies)
    steps = torch.arange(config.n_positions)[:, None] * angles[None, :]
    amplitude = std * math.sqrt(content / frequencies) * 0.7  # positions weigh about 0.7 of the content
    wpe.zero_()
    wpe[:, position] = torch.cat([torch.cos(steps), torch.sin(steps)], 1) * amplitude

    # a layer norm scales the stream so that its squared norm is `width`; the shares of its parts follow
    total = content * std**2 + frequencies * amplitude**2
    unit_position = math.sqrt(width * frequencies * amplitude**2 / total)
    unit_token = math.sqrt(width * content * std**2 / total)
    strength = std * math.sqrt(content) / unit_token  # gives a written part the norm of a token's content

    first = model.transformer.h[0].attn
    gather = torch.randn(content, size, generator=generator) / math.sqrt(content)
    sharp = math.sqrt(PREVIOUS * math.sqrt(size)) / unit_position
    for head, (part, back) in enumerate(((before, 1), (earlier, 2))):
        _head(first, "q", head, size, width)[position, : 2 * frequencies] = _turned(back, angles) * sharp
        _head(first, "k", head, size, width)[position, : 2 * frequencies] = torch.eye(2 * frequencies) * sharp
        count = part.stop - part.start
        _head(first, "v", head, size, width)[token, :count] = gather[:, :count]
        rows = slice(head * size, head * size + count)
        first.c_proj.weight[rows, part] = torch.eye(count) * strength * math.sqrt(content / count)

    second = model.transformer.h[1].attn
    sharp = math.sqrt(MATCH * math.sqrt(size)) / unit_token
    for head in range(max(1, min(2, heads - 1))):
        query, key = _head(second, "q", head, size, width), _head(second, "k", head, size, width)
        query[token, :near] = gather[:, :near] * math.sqrt(content / near) * sharp
        key[before, :near] = torch.eye(near) * sharp
        read = slice(before.start, before.start + far)  # what `before` and `earlier` have in common of a token
        query[read, near:] = torch.eye(far) * SECOND * sharp
        key[earlier, near:] = torch.eye(far) * sharp
        spread = torch.linalg.qr(torch.randn(content, content, generator=generator))[0][:, :size]
        _head(second, "v", head, size, width)[token, :] = spread
        rows = slice(head * size, (head + 1) * size)
        second.c_proj.weight[rows, token] = spread.T * GAIN * strength


def _turned(back: int, angles: torch.Tensor) -> torch.Tensor:
    """Return the rotation that turns the encoding of a position into that of the one ``back`` places before."""
    cosine, sine = torch.diag(torch.cos(back * angles)), torch.diag(torch.sin(back * angles))
    return torch.cat([torch.cat([cosine, -sine], 1), torch.cat([sine, cosine], 1)], 0)


def _head(attn: Any, part: str, head: int, size: int, width: int) -> torch.Tensor:
    """Return the (width, size) view of one head's q, k or v weights, zeroed."""
    start = "qkv".index(part) * width + head * size
    view: torch.Tensor = attn.c_attn.weight[:, start : start + size]
    view.zero_()
    return view
