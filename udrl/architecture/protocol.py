"""What differs between families of networks: everything that the rest of udrl asks of a network, behind one protocol.

B rows of L new ids, N ids laid end to end in a packed batch of which M predict; ``model`` is a transformers causal
language model, ``config`` its config. Families have no state: what they need stands in the model and its config.
Embedding, control rows, final head and saving are the same for all and stand in `udrl.student.network`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from udrl.architecture.packing import Batch

if TYPE_CHECKING:
    from udrl.onnx_graph import Graph


@dataclass(frozen=True)
class CacheShape:
    """Keys and values of one id: ``layers`` times ``heads`` (of keys) times ``size`` numbers, each twice."""

    layers: int
    heads: int
    size: int


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF file. values: as llama.cpp keeps it, (out, in); matrix: it may be quantised."""

    name: str
    values: Tensor
    matrix: bool = False


class Cache(Protocol):
    """What a batch of prompts under way has read. Made by `Architecture.caches`, used by the torch engine."""

    def run(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Read L new places a row; return float32 logits (B, text ids) behind the last, which the caller may write to.

        embeddings: (B, L, width) without positions; positions: (B, L), counted from each row's first real id.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (n,) only, in this order; what the others alone took up is given back."""
        ...

    @property
    def joins(self) -> bool:
        """Whether it can `join` once it has read its prompts; else new rows wait until those under way have ended."""
        ...

    def join(self, other: Self) -> None:
        """Take in the rows of ``other``, of the same model, behind the own ones; ``other`` is of no use after that.

        Each row then gets what it would get alone. `udrl.architecture.padding.PaddedCache` does this for caches of keys
        and values.
        """
        ...


class Exporter(Protocol):
    """How other programs name and compute the family's parts, called by `udrl.export` under ``torch.no_grad``.

    Embedding table, vocabulary and, but in GGUF, the head are written by `udrl.export` itself.
    """

    @property
    def gguf_name(self) -> str:
        """What llama.cpp calls the family (``general.architecture``)."""
        ...

    @property
    def blockwise(self) -> bool:
        """Whether int8 in ONNX needs a scale for every 32 activations, since a few of them are far above the others.

        That is slower than one scale for all where many rows are computed at once (`udrl.onnx_graph.Graph`).
        """
        ...

    def cache_shape(self, config: Any) -> CacheShape:
        """Return the shape of the graph's cache, which the ONNX engine allocates."""
        ...

    def onnx_body(self, graph: Graph, model: Any, tokens: str) -> str:
        """Add positions, blocks and final norm to ``graph``; return the name of what the head reads, (B, width).

        tokens: name of the ids' embeddings (B, L, width). The graph's inputs are described in `udrl.export.onnx`.
        """
        ...

    def add_gguf_facts(self, writer: Any, model: Any) -> None:
        """Add the shape of ``model`` to a ``gguf.GGUFWriter``: context, widths, blocks, heads, the norms' epsilon."""
        ...

    def gguf_tensors(self, model: Any, embeddings: Tensor, text_size: int) -> Iterator[GgufTensor]:
        """Yield all tensors of the file, in the order of the computation, ``embeddings`` (rows, width) among them.

        llama.cpp cannot forbid an id: the head must give ids from ``text_size`` on the logit `closed_head.NEVER`.
        """
        ...

    def ctranslate2_spec(self, model: Any) -> Any:
        """Return a ``TransformerDecoderModelSpec`` with all but embedding, head and vocabulary filled in."""
        ...


class Architecture(Protocol):
    """One family of networks. A new one implements this in a file of its own and gets a line in `FAMILIES`."""

    @property
    def name(self) -> str:
        """What people call the family, for messages: "GPT-2"."""
        ...

    @property
    def exporter(self) -> Exporter | None:
        """How the family is exported; None: torch alone answers. Asked by `udrl.export.export`."""
        ...

    def admits(self, config: Any) -> bool:
        """Say whether everything below holds for networks of this ``config``. Asked by `architecture_of`."""
        ...

    def context(self, config: Any) -> int:
        """Return the longest sequence, prompt and completion together, in ids. Asked by students and reward models."""
        ...

    def prepare(self, model: Any) -> None:
        """Change in a checkpoint of somebody else's what training here does otherwise. Called by `admit`."""
        ...

    def logits(self, model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
        """Return logits (M, text_size) in float32 at the predicting positions of ``batch``, with gradients.

        embeddings: (N, width) of the batch's ids, without positions; dtype: of matrix products; text_size: ids that
        can be predicted (control tokens lie above and are never predicted, so never sampled). Called by
        `StudentModel.logits`.
        """
        ...

    def losses(self, model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
        """Return the negative log-likelihood (M,) in float32 of the labels of ``batch``, with gradients.

        That is the cross entropy of `logits`, in less memory where the head can be told apart. Blocks at the bottom
        none of whose parameters learns store nothing for the backward pass (`udrl.architecture.frozen`). Called by
        `StudentModel.losses`, for training and validation.
        """
        ...

    def caches(self, model: Any, *, dtype: torch.dtype, text_size: int) -> Callable[[Tensor], Cache]:
        """Return what makes empty caches, each of prompts padded on the left whose real places (B, L) it is told.

        dtype: of matrix products, keys and values; text_size: as of `logits`. What the caches read of the weights in
        another form is made once, for all of them. Called by `TorchEngine`.
        """
        ...

    def blocks(self, model: Any) -> nn.ModuleList:
        """Return the stack of blocks, which LoRA changes and sharding divides."""
        ...

    def block_methods(self, block: nn.Module) -> tuple[str, ...]:
        """Give ``block`` as methods what `logits` calls of it besides its forward, and return their names.

        Sharded weights are gathered when one of a block's methods runs. Called by `udrl.training.distributed`.
        """
        ...

    def decays(self, name: str) -> bool:
        """Say whether the model's parameter ``name``, where it is a matrix, is decayed: not embeddings, not the head.

        Called by `make_optimizer`.
        """
        ...
