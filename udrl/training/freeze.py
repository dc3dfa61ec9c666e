"""Fine-tuning the top of a student: the blocks at its bottom and its embeddings stay as they are.

Nothing of them is stored or computed for the backward pass (`udrl.architecture.frozen`), and the optimiser keeps no
state of them. The rows of the command space learn, and so do the other blocks, the final norm, and a head that is not
the embedding.
"""

from __future__ import annotations

from udrl.errors import UsageError
from udrl.student.network import StudentModel


def freeze(student: StudentModel, count: int) -> None:
    """Let the first ``count`` blocks of ``student`` and its embeddings not learn; UsageError where no block is left."""
    blocks, model = student.blocks, student.model
    if count >= len(blocks):
        raise UsageError(
            f"--freeze {count} leaves nothing to learn, the student has {len(blocks)} blocks: at most {len(blocks) - 1}"
        )
    inside = {id(parameter) for parameter in blocks.parameters()}
    tables = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    head = {id(parameter) for parameter in model.get_output_embeddings().parameters()} - tables
    for parameter in model.parameters():  # what is left are the tables of tokens and of positions
        if id(parameter) not in inside | head and parameter.ndim > 1:
            parameter.requires_grad_(False)
    for block in blocks[:count]:
        block.requires_grad_(False)
