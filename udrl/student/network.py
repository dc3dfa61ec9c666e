"""The student's network: an ordinary causal language model and the embedding rows of its command space.

In training, the language model holds text rows only and `ControlRows` holds one learned row a bin. What is saved is an
ordinary Hugging Face checkpoint whose embedding ends with the fine table of control rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udrl.architecture import architecture_of
from udrl.architecture.any import with_weight
from udrl.architecture.packing import Batch
from udrl.commands import CommandSpace
from udrl.errors import StudentError

ROW_MULTIPLE = 64
"""The saved vocabulary is padded to a multiple of this, which every converter and engine accepts."""


class ControlRows(nn.Module):
    """One learned embedding row a task, a bin and an 'open' of every attribute; values between bins mix neighbours."""

    low: Tensor
    high: Tensor
    share: Tensor

    def __init__(self, space: CommandSpace, start: Tensor) -> None:
        """Create rows that all begin as ``start`` (width,), plus a little noise where they would be equal."""
        super().__init__()
        weight = start[None, :].repeat(space.base_size, 1).float()
        self.weight = nn.Parameter(weight, requires_grad=len(weight) > 0)  # no rows where commands are text
        low, high, share = space.mixing()
        self.register_buffer("low", torch.tensor(low, dtype=torch.long), persistent=False)
        self.register_buffer("high", torch.tensor(high, dtype=torch.long), persistent=False)
        self.register_buffer("share", torch.tensor(share)[:, None], persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the embeddings (n, width) of control ids given as rows of the fine table."""
        share = self.share[rows]
        mixed: Tensor = self.weight[self.low[rows]] * (1 - share) + self.weight[self.high[rows]] * share
        return mixed

    def table(self) -> Tensor:
        """Return the whole fine table (space.size, width)."""
        return self.forward(torch.arange(len(self.low), device=self.weight.device))


def embedded(ids: Tensor, embedding: nn.Module, rows: ControlRows, base: int) -> Tensor:
    """Return embeddings (..., width): ids under ``base`` as ``embedding`` reads them, the others as control ids.

    A control row stands in the saved checkpoint as a row of the embedding's weight. So the embedding module itself
    reads it here as well: what it does with its rows (Gemma multiplies them by the root of the width) it does with
    control rows, and the checkpoint computes from plain ids what was trained.
    """
    if not len(rows.low):  # commands are text
        return embedding(ids)  # type: ignore[no-any-return]
    control = ids >= base
    vectors: Tensor = embedding(ids.masked_fill(control, 0))
    raw = rows(ids[control] - base)
    read = with_weight(embedding, raw)(torch.arange(len(raw), device=raw.device))
    return vectors.index_put((control,), read.to(vectors.dtype))


class CommandEmbedding(nn.Module):
    """The input embedding of text and control ids in one module, for trainers that see a language model alone."""

    def __init__(self, text: nn.Module, rows: ControlRows, base: int) -> None:
        """Join the model's own embedding and the control rows, whose ids begin at ``base``."""
        super().__init__()
        self.text, self.rows, self.base = text, rows, base

    @property
    def weight(self) -> Tensor:
        """The text rows, as transformers asks for them."""
        return self.text.weight  # type: ignore[return-value]

    def forward(self, ids: Tensor) -> Tensor:
        """Return embeddings (..., width)."""
        return embedded(ids, self.text, self.rows, self.base)


class StudentModel(nn.Module):
    """A causal language model that is commanded through control rows above its vocabulary."""

    def __init__(self, model: Any, space: CommandSpace, rows: ControlRows | None = None) -> None:
        """Wrap ``model``, whose embedding must hold exactly the ``space.base`` text rows."""
        super().__init__()
        self.model = model
        self.space = space
        weight = model.get_input_embeddings().weight
        self.rows = rows or ControlRows(space, weight.detach()[: space.base].mean(0))
        self.architecture = architecture_of(model.config)

    @property
    def context(self) -> int:
        """Longest sequence, prompt and completion together, in ids."""
        return self.architecture.context(self.model.config)

    @property
    def ends(self) -> list[int]:
        """The ids that end a completion; training writes the first."""
        ends = self.model.config.eos_token_id
        return list(ends) if isinstance(ends, list) else [ends]

    def embed(self, ids: Tensor) -> Tensor:
        """Return embeddings (..., width) of text and control ids, without positions."""
        embedding = self.model.get_input_embeddings()
        text = embedding.text if isinstance(embedding, CommandEmbedding) else embedding
        return embedded(ids, text, self.rows, self.space.base)

    def logits(self, batch: Batch, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return logits (M, base) in float32 at the predicting positions of a packed batch."""
        embeddings = self.embed(batch.ids)
        return self.architecture.logits(self.model, embeddings, batch, dtype=dtype, text_size=self.space.base)

    def forward(self, batch: Batch, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return `losses`: what computes in several processes goes through a module's forward."""
        return self.losses(batch, dtype=dtype)

    def losses(self, batch: Batch, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the negative log-likelihood (M,) of every completion token, end token included."""
        embeddings = self.embed(batch.ids)
        return self.architecture.losses(self.model, embeddings, batch, dtype=dtype, text_size=self.space.base)

    @property
    def blocks(self) -> nn.ModuleList:
        """The stack of the model's blocks."""
        return self.architecture.blocks(self.model)

    @property
    def parameter_count(self) -> int:
        """Number of parameters of the saved checkpoint, tied ones counted once."""
        seen = sum(p.numel() for p in self.model.parameters())
        return int(seen + self.space.size * self.rows.weight.shape[1])


@torch.no_grad()
def save_model(student: StudentModel, folder: Path) -> None:
    """Write an ordinary Hugging Face checkpoint whose last embedding rows are the fine control table.

    The text model is left as it is: its embedding is replaced for the time of the writing only.
    """
    from transformers import GenerationConfig

    model, space = student.model, student.space
    size = space.base + space.size
    padded = -(-size // ROW_MULTIPLE) * ROW_MULTIPLE
    embedding = model.get_input_embeddings()
    text = embedding.weight.detach()
    full = torch.zeros(padded, text.shape[1], dtype=text.dtype)
    full[: space.base] = text.cpu()
    full[space.base : size] = student.rows.table().detach().to(text.dtype).cpu()
    head = model.get_output_embeddings()
    tied = head.weight.data_ptr() == embedding.weight.data_ptr()
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    name = next(f"{n}.weight" for n, module in model.named_modules() if module is embedding)
    if tied:  # one name for one matrix
        state = {n: t for n, t in state.items() if t.data_ptr() != state[name].data_ptr()}
    state[name] = full
    if not tied:
        name = next(n for n, p in model.named_parameters() if p is head.weight)
        wide = torch.zeros(padded, head.weight.shape[1], dtype=head.weight.dtype)
        wide[: space.base] = head.weight.detach().cpu()
        state[name] = wide
    if getattr(head, "bias", None) is not None:
        name = next(n for n, p in model.named_parameters() if p is head.bias)
        state[name] = F.pad(head.bias.detach().cpu(), (0, padded - space.base))
    config, generation = model.config, model.generation_config
    text_config = config.get_text_config()
    before = text_config.vocab_size
    try:
        text_config.vocab_size = padded
        eos = config.eos_token_id  # settled when the training began: one id, or a list
        model.generation_config = GenerationConfig(
            eos_token_id=eos,
            pad_token_id=eos[0] if isinstance(eos, list) else eos,
            suppress_tokens=list(range(space.base, padded)) or None,
            do_sample=False,
        )
        model.save_pretrained(folder, state_dict=state, safe_serialization=True)
    finally:
        text_config.vocab_size, model.generation_config = before, generation


def load_model(folder: Path, space: CommandSpace, *, revision: str | None = None) -> StudentModel:
    """Load a saved student: the text rows into the language model, the rows at whole bins into `ControlRows`."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    embedding = model.get_input_embeddings().weight.detach()
    if len(embedding) < space.base + space.size:
        raise StudentError(
            f"{folder}: the checkpoint has {len(embedding)} embedding rows, its command space needs "
            f"{space.base + space.size}: the two files belong to different students"
        )
    table = embedding[space.base : space.base + space.size].clone()
    model.resize_token_embeddings(space.base)
    student = StudentModel(model, space, ControlRows(space, embedding.mean(0)))
    low, _, share = space.mixing()
    with torch.no_grad():
        for row, (target, mixed) in enumerate(zip(low, share, strict=True)):
            if mixed == 0:
                student.rows.weight[target] = table[row]
    return student


@torch.no_grad()
def grown(student: StudentModel, space: CommandSpace) -> StudentModel:
    """Return ``student`` with the rows of ``space``, which `CommandSpace.extended` made of its own.

    Known rows stay as they are. A new task begins as the mean of the known tasks, a new attribute as the mean of the
    known attributes' open rows (where none is known, of the tasks): nothing is asked yet.
    """
    old, weight = student.space, student.rows.weight
    rows = ControlRows(space, weight.new_zeros(weight.shape[1]))
    if space.size:
        known, every, each = len(old.tasks), len(space.tasks), 1 + old.bins
        rows.weight[:every] = weight[:known].mean(0)
        rows.weight[:known] = weight[:known]
        rows.weight[every:] = (weight[known::each] if old.attributes else weight[:known]).mean(0)
        rows.weight[every : every + len(old.attributes) * each] = weight[known:]
    return StudentModel(student.model, space, rows)
