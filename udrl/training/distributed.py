"""One training in several processes, started by ``torchrun`` or ``accelerate launch``.

Each process computes its share of every batch; torch's DistributedDataParallel adds the gradients up, or its
fully_shard (FSDP2) does and keeps a part of the weights, gradients and optimiser state on each. Which episodes a step
sees depends on seed and step alone, and losses are divided by the tokens of all, so that the student is the one of a
single process but for rounding. The first process writes, logs, validates and calibrates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from udrl.errors import StudentError, UsageError
from udrl.student.network import StudentModel
from udrl.training.ranks import Rank

Value = TypeVar("Value")
ALONE = Rank()


def own_device(device: torch.device, rank: Rank) -> torch.device:
    """Return this process's own GPU where ``device`` is a GPU; StudentError where the machine has too few."""
    if device.type != "cuda" or rank.count == 1:
        return device
    count = torch.cuda.device_count()
    if rank.local >= count:
        raise StudentError(
            f"process {rank.local + 1} of this machine has no GPU, there are {count}: start as many processes a "
            "machine as it has GPUs (--nproc-per-node), or use --device cpu"
        )
    torch.cuda.set_device(rank.local)
    return torch.device("cuda", rank.local)


def from_first(value: Value, rank: Rank) -> Value:
    """Return the first process's ``value`` in all of them; all wait for it."""
    if rank.count == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0, device=torch.device("cpu"))
    return holder[0]


def summed(values: tuple[float, ...], rank: Rank) -> tuple[float, ...]:
    """Return ``values`` added up over the processes."""
    if rank.count == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tuple(tensor.tolist())


def check_share(batch_size: int, rank: Rank, shard: bool) -> None:
    """Raise UsageError where the processes cannot share a batch evenly, or there is nobody to share weights with."""
    if shard and rank.count == 1:
        raise UsageError(
            "--shard needs several processes: start it with torchrun --nproc-per-node N -m -- udrl train --shard"
        )
    if batch_size % rank.count:
        fitting = batch_size + -batch_size % rank.count
        raise UsageError(
            f"{batch_size} episodes a step cannot be shared evenly by {rank.count} processes: "
            f"use --batch-size {fitting}"
        )


class Replica:
    """The student as this process trains it: itself, a replica of it, or the sharded copy of it.

    module: what computes losses; inner: whose parameters the optimiser changes.
    """

    def __init__(self, student: StudentModel, rank: Rank = ALONE, *, shard: bool = False) -> None:
        """Wrap ``student`` with the weights that the first process's has."""
        self.student, self.inner, self.rank, self.sharded = student, student, rank, shard
        self.device = student.rows.weight.device
        self.module: nn.Module = student
        if shard:
            for parameter in student.parameters():
                dist.broadcast(parameter.data, 0)
            self.inner = self.module = _sharded(student, self.device, rank)
            student.to("cpu")  # as weights to write and to validate with; on a GPU they would be in the way
        elif rank.count > 1:
            self.module = nn.parallel.DistributedDataParallel(student, gradient_as_bucket_view=True)
        self.parameters = [p for p in self.inner.parameters() if p.requires_grad]

    def adding(self, last: bool) -> AbstractContextManager[None]:
        """Within: forward and backward of one part of the batch; gradients travel with the ``last`` part."""
        if isinstance(self.module, nn.parallel.DistributedDataParallel):
            return nullcontext() if last else self.module.no_sync()
        if self.sharded:
            cast(Any, self.module).set_requires_gradient_sync(last)
        return nullcontext()

    def clip(self, longest: float) -> float:
        """Shorten the gradient to ``longest`` and return its length before."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, longest)
        return float(cast(Any, norm).full_tensor() if self.sharded else norm)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within: ``student`` has the weights of now in the first process. All processes must enter."""
        if self.sharded:
            self.collect()
            if self.rank.first:
                self.student.to(self.device)
        yield
        if self.sharded:
            self.student.to("cpu")

    @torch.no_grad()
    def collect(self) -> None:
        """Gather sharded weights into ``student`` in the first process. All processes must call it."""
        if not self.sharded:
            return
        to = dict(self.student.named_parameters())
        for name, parameter in self.inner.named_parameters():
            whole = cast(dist.tensor.DTensor, parameter).full_tensor()
            if self.rank.first:
                to[name].copy_(whole)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the optimiser's state as a single process would have it. All processes must call it."""
        state_dict = optimizer.state_dict()
        if self.sharded:
            state_dict["state"] = {
                key: {n: self._full(t) for n, t in state.items()} for key, state in state_dict["state"].items()
            }
        return state_dict

    def _full(self, value: Any) -> Any:
        if not isinstance(value, dist.tensor.DTensor):
            return value
        whole = value.full_tensor()  # all take part, one keeps it
        return whole.cpu() if self.rank.first else None

    def load_optimizer(self, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
        """Take up what `optimizer_state` returned, in however many processes that was."""
        made = dict(saved)
        if self.sharded:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            made["state"] = {
                key: {n: _like(t, parameters[key]) for n, t in state.items()} for key, state in saved["state"].items()
            }
        optimizer.load_state_dict(made)


def _sharded(student: StudentModel, device: torch.device, rank: Rank) -> StudentModel:
    """Return a copy of ``student`` whose blocks are each gathered when they compute, and the rest around them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    made = copy.deepcopy(student)
    mesh = init_device_mesh(device.type, (rank.count,))
    for block in made.blocks:
        fully_shard(block, mesh=mesh)
        for name in made.architecture.block_methods(block):
            register_fsdp_forward_method(block, name)
    fully_shard(made, mesh=mesh)
    return made


def _like(tensor: Any, parameter: Any) -> Any:
    if not isinstance(tensor, torch.Tensor) or tensor.shape != parameter.shape:
        return tensor
    return dist.tensor.distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
