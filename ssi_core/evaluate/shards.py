"""Many processes, one evaluation: who does what, who waits for whom, and what is said when one dies.

Nothing but a few words goes between processes (torch.distributed, gloo); results go through the folder, which all of
them must see. A process takes every `count`-th unit that is still to be done, and writes a part of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from ..errors import InputError

PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest; one that died is noticed at once, because its connection closes."""


@dataclass(frozen=True)
class Shard:
    """This process among `count`."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that surveys, merges and reports."""
        return self.rank == 0

    def tell(self, word: str) -> None:
        """Let the others go on; for the leader. `word` is what went wrong, or ""."""
        if self.count > 1:
            dist.broadcast_object_list([word], src=0)

    def told(self) -> None:
        """Wait for the leader.

        Raises:
            InputError: what went wrong there, or that it died.
        """
        word = [""]
        try:
            dist.broadcast_object_list(word, src=0)
        except RuntimeError as error:
            raise InputError(f"process 0 of {self.count} died; run the same command again") from error
        if word[0]:
            raise InputError(word[0])

    def wait(self) -> str:
        """Wait until all are done with their share.

        Returns:
            What went wrong with another process, in words; "" where nothing did.
        """
        if self.count == 1:
            return ""
        try:
            dist.monitored_barrier(timeout=PATIENCE, wait_all_ranks=False)
        except RuntimeError as error:
            return f"a process of {self.count} died before its share was done ({str(error).splitlines()[0][:120]})"
        return ""


@contextmanager
def sharded() -> Iterator[Shard]:
    """This process's place, from what `torchrun` says in the environment; alone where it says nothing.

    Raises:
        InputError: torchrun's variables do not fit together.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdigit() or int(count) < 1:
        raise InputError(f"WORLD_SIZE {count!r}: must be a whole number; start several processes with torchrun")
    if int(count) == 1:
        yield Shard()
        return
    try:
        dist.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the {count} processes cannot find one another ({error}); start them with torchrun"
        ) from error
    try:
        yield Shard(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
