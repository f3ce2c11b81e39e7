"""Many processes, one evaluation: who does what, who waits for whom, and what is said when one dies.

Nothing but a few words goes between processes (torch.distributed); results go through the folder, which all of them
must see. A process takes every `count`-th unit that is still to be done, and writes a part of its own.

gloo carries the words over TCP, beside GPUs too. nccl is for clusters whose processes reach each other by it alone; it
needs a GPU for each process and has not been run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import InputError

BACKENDS = ("gloo", "nccl")
PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest; one that died is noticed at once, because its connection closes."""


class Refused(InputError):
    """Nothing was begun, and every process was told the same, so that all of them can go on with something else."""


@dataclass(frozen=True)
class Shard:
    """This process among `count`."""

    rank: int = 0
    count: int = 1
    place: str = "cpu"
    """The device that words between processes lie on: nccl carries only what lies on a GPU."""

    @property
    def leads(self) -> bool:
        """Whether it is the one that surveys, merges and reports."""
        return self.rank == 0

    def tell(self, word: str) -> None:
        """Let the others go on; for the leader. `word` is what went wrong, or ""."""
        if self.count > 1:
            dist.broadcast_object_list([word], src=0, device=torch.device(self.place))

    def told(self) -> None:
        """Wait for the leader.

        Raises:
            Refused: what went wrong there.
            InputError: it died.
        """
        word = [""]
        try:
            dist.broadcast_object_list(word, src=0, device=torch.device(self.place))
        except RuntimeError as error:
            raise InputError(f"process 0 of {self.count} died; run the same command again") from error
        if word[0]:
            raise Refused(word[0])

    def agree(self, word: str) -> None:
        """Hear of every process what is wrong with it before anything is begun; for all of them.

        Args:
            word: what is wrong here, or "".

        Raises:
            Refused: with what is wrong, in every process.
            InputError: one of them died.
        """
        words: list[str] = [word] * self.count
        if self.count > 1:
            try:
                dist.all_gather_object(words, word)
            except RuntimeError as error:
                raise InputError(f"a process of {self.count} died; run the same command again") from error
        if any(words):
            raise Refused(next(filter(None, words)))

    def wait(self) -> str:
        """Wait until all are done with their share.

        Returns:
            What went wrong with another process, in words; "" where nothing did.
        """
        if self.count == 1:
            return ""
        try:
            if self.place == "cpu":
                dist.monitored_barrier(timeout=PATIENCE, wait_all_ranks=False)
            else:  # nccl has no monitored one; its watchdog ends the process when another's connection breaks
                dist.barrier()
        except RuntimeError as error:
            return f"a process of {self.count} died before its share was done ({str(error).splitlines()[0][:120]})"
        return ""


def own_device() -> str:
    """The device of this process on its machine: one GPU for each, where there are any."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@contextmanager
def sharded(backend: str = "gloo") -> Iterator[Shard]:
    """This process's place, from what `torchrun` says in the environment; alone where it says nothing.

    Args:
        backend: one of `BACKENDS`.

    Raises:
        InputError: torchrun's variables do not fit together, or there is no GPU for nccl.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r}: unknown; known are {', '.join(BACKENDS)}")
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdigit() or int(count) < 1:
        raise InputError(f"WORLD_SIZE {count!r}: must be a whole number; start several processes with torchrun")
    if int(count) == 1:
        yield Shard()
        return
    place = "cpu" if backend == "gloo" else own_device()
    if backend == "nccl":
        if place == "cpu":
            raise InputError("backend nccl: needs a GPU for each process; use gloo")
        torch.cuda.set_device(place)
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the {count} processes cannot find one another ({error}); start them with torchrun"
        ) from error
    try:
        yield Shard(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
