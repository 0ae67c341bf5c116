"""The processes of a run, as `torchrun` starts them: who this one is, what it computes on, and their sums.

A plain `python -m training pretrain` is a run of one process.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
"""What `torchrun` puts in the environment, and what holds without it."""
WAIT = datetime.timedelta(hours=3)
"""How long the others wait while one process tokenises the corpus."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among the run's."""

    rank: int  # its number
    count: int  # how many there are
    local_rank: int  # its number on its machine
    device: torch.device  # what it computes on

    @property
    def main(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def add_up(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of the tensor over all processes, on the device where it was."""
        if self.count == 1:
            return values
        total = values.to(self.device)
        distributed.all_reduce(total)
        return total.to(values.device)

    def wait(self) -> None:
        """Return when all have come here."""
        if self.count > 1:
            distributed.barrier()

    def share(self, model: torch.nn.Module) -> Any:
        """The model, with gradients that are means over the processes."""
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    def stop(self) -> None:
        """Leave the group."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def start() -> Processes:
    """Join the group that `torchrun` announced in the environment, if it did."""
    rank, count, local = (int(os.environ.get(name, default)) for name, default in VARIABLES)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if count > 1:
        distributed.init_process_group("nccl" if cuda else "gloo", timeout=WAIT)
    return Processes(rank, count, local, device)


@contextlib.contextmanager
def told_to_end() -> Iterator[list[int]]:
    """A list that SIGTERM puts something into, so that a run can end where it is whole."""
    received: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    except ValueError:  # signals are the main thread's
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def end_when_told(_: int) -> None:
    """In a loader's process, which inherits our handler and has nothing to bring to an end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
