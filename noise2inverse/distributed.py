"""Training in several processes, each with a part of every batch, started by ``torchrun``.

All processes draw the same batch from the same seed and read only their part of it. Each takes the gradient of its
part of the loss *of the whole batch* (the sum over its crops, divided by the crops of all), and the gradients are
added: this is the gradient of one process with the whole batch, also where the batch cannot be divided equally. (An
average of the processes' own means, as `torch.nn.parallel.DistributedDataParallel` takes it, would then weigh crops
unequally.) The sum is taken once a step, in one flat buffer with the loss in it. It has the same bits everywhere, and
so have the weights.

Numbers and tensors go over the wire as they are; nothing is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from quietbeam.reconstruction.errors import ReductionError

__all__ = ["Group", "process_group"]

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Group:
    """The processes that train together; by itself, one process, for which nothing is sent.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    device : torch.device, optional
        Where this process computes; what is sent is put there.

    Raises
    ------
    ValueError
        If the rank does not lie in [0, size).
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank must lie in [0, {size}), got {rank}")
        self.rank, self.size = rank, size
        self.device = device or torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> list[T]:
        """Take this process's part: every `size`-th item, from number `rank` on."""
        return list(items[self.rank :: self.size])

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in place, in one message.

        Parameters
        ----------
        tensors : sequence of Tensor
            Of one dtype, and of the same shapes in all processes.

        Raises
        ------
        ReductionError
            If another process has ended.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to(self.device)
        with _told():
            dist.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [len(one.reshape(-1)) for one in tensors]), strict=True):
            tensor.detach().copy_(total.view_as(tensor))

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first process, in place.

        Parameters
        ----------
        tensors : sequence of Tensor
            Of the same shapes and dtypes in all processes.

        Raises
        ------
        ReductionError
            If another process has ended.
        """
        for tensor in tensors if self.size > 1 else ():
            sent = tensor.detach().to(self.device).contiguous()
            with _told():
                dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)

    def share_number(self, number: float) -> float:
        """Give the first process's number to all, for decisions that all must take alike."""
        sent = torch.tensor([number], dtype=torch.float64)
        self.share([sent])
        return sent.item()

    def share_bytes(self, content: bytes) -> bytes:
        """Give the first process's bytes to all."""
        sent = torch.zeros(int(self.share_number(len(content))), dtype=torch.uint8)
        if self.is_first and content:
            sent = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if len(sent):
            self.share([sent])
        return sent.numpy().tobytes()


@contextmanager
def process_group(device: torch.device | None = None, *, timeout_seconds: float = 600.0) -> Iterator[Group]:
    """Join the processes that torchrun has started, and leave them at the end.

    Parameters
    ----------
    device : torch.device, optional
        Where to compute: "cuda" takes the GPU of this process's number on its machine, and NCCL between the processes;
        anything else takes gloo.
    timeout_seconds : float
        How long to wait for a process that neither answers nor ends.

    Yields
    ------
    Group
        Of one process where torchrun's variables (WORLD_SIZE and others) are not set.

    Raises
    ------
    ValueError
        If only some of the variables are set.
    ReductionError
        If not all processes come.
    """
    device = device or torch.device("cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group(device=device)
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE is set but not {', '.join(missing)}: start the processes with torchrun")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    # This module's functions have the group of all processes as a default argument. Imported by an optimizer after the
    # group is there, they would keep it, and its threads, until the interpreter ends, which a thread of it can abort.
    import_module("torch.distributed.nn.functional")

    with _told():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


@contextmanager
def _told() -> Iterator[None]:
    """Say in our words what gloo and NCCL say when a process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ReductionError(
            "a process that trains along with this one has ended or does not answer: see its own message, then start "
            f"the training again, which goes on from its last checkpoint ({error})"
        ) from error
