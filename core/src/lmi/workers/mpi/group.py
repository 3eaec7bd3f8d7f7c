# SPDX-License-Identifier: Apache-2.0
"""The ranks of one worker and what they send each other, over MPI.

MPI's own broadcast waits busily: a rank would burn a core for as long as the server is idle. Here a rank that waits
looks for messages with pauses, the shorter the less time has passed since the last one.
"""

from __future__ import annotations

import os
import socket
import time
import zlib

import mpi4py  # type: ignore[import-not-found,unused-ignore]

from lmi.api.errors import EngineDeadError
from lmi.api.machine import Ranks
from lmi.workers.mpi.variables import rank_variables

mpi4py.rc.initialize = False
mpi4py.rc.finalize = False

from mpi4py import MPI  # noqa: E402 - only after it was told not to start by itself

_FROM_FIRST, _TO_FIRST = 1, 2
_EAGER_S, _AWAKE_S = 0.0002, 0.05
_SHORT_PAUSE_S, _LONG_PAUSE_S = 0.00005, 0.0005


class RankGroup:
    """This process's place among the ranks of a worker. Its methods are called by one thread at a time.

    Attributes:
        rank: of this process; 0 is the one that speaks to the server.
        size: how many ranks there are.
        hosts: the machine of each rank, by name.
    """

    def __init__(self) -> None:
        MPI.Init_thread(MPI.THREAD_SERIALIZED)
        self._comm = MPI.COMM_WORLD
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self.hosts: list[str] = self._comm.allgather(socket.gethostname())
        self._checksum = 0
        self._n_sent = 0

    @property
    def local_rank(self) -> int:
        """The place among the ranks on this machine."""
        return self.hosts[: self.rank].count(self.hosts[self.rank])

    @property
    def local_size(self) -> int:
        """Ranks on this machine."""
        return self.hosts.count(self.hosts[self.rank])

    @property
    def is_on_one_machine(self) -> bool:
        return len(set(self.hosts)) == 1

    def set_variables(self, address: str, port: int) -> None:
        """Tell engine libraries their rank, as torch.distributed and its like read it from variables.

        Args:
            address, port: where rank 0 listens for the others.
        """
        ranks = Ranks(rank=self.rank, size=self.size, local_rank=self.local_rank, local_size=self.local_size)
        os.environ.update(rank_variables(ranks, address, port))

    def broadcast(self, message: bytes) -> None:
        """Send a message to all other ranks; called by rank 0 alone."""
        self._n_sent, self._checksum = self._n_sent + 1, zlib.crc32(message, self._checksum)
        frame = self._n_sent.to_bytes(8, "little") + self._checksum.to_bytes(4, "little") + message
        MPI.Request.Waitall([self._comm.Isend(frame, dest=rank, tag=_FROM_FIRST) for rank in range(1, self.size)])

    def receive(self) -> bytes:
        """The next message of rank 0.

        Raises:
            EngineDeadError: it is not the one that follows what this rank has read, or not as rank 0 sent it.
        """
        frame = self._next(0, _FROM_FIRST)
        number, checksum = int.from_bytes(frame[:8], "little"), int.from_bytes(frame[8:12], "little")
        message = bytes(frame[12:])
        self._n_sent, self._checksum = self._n_sent + 1, zlib.crc32(message, self._checksum)
        if (number, checksum) != (self._n_sent, self._checksum):
            raise EngineDeadError(
                "engine.ranks-disagree",
                f"rank {self.rank} read message {self._n_sent} with checksum {self._checksum:08x}, rank 0 sent message "
                f"{number} with {checksum:08x}",
                "Check the network between the machines; the worker starts anew",
            )
        return message

    def gather(self, message: bytes) -> list[bytes]:
        """What each rank gave, on rank 0; only the own message elsewhere."""
        if self.rank:
            self._comm.Send(message, dest=0, tag=_TO_FIRST)
            return [message]
        return [message, *(bytes(self._next(rank, _TO_FIRST)) for rank in range(1, self.size))]

    def finish(self) -> None:
        """Leave MPI, together with all other ranks."""
        if not MPI.Is_finalized():
            MPI.Finalize()

    def _next(self, source: int, tag: int) -> bytearray:
        status = MPI.Status()
        started_s = time.monotonic()
        while not self._comm.Iprobe(source=source, tag=tag, status=status):
            waited_s = time.monotonic() - started_s
            # No pause at all for a moment; then one that costs a few percent of a core at most.
            time.sleep(0 if waited_s < _EAGER_S else _SHORT_PAUSE_S if waited_s < _AWAKE_S else _LONG_PAUSE_S)
        frame = bytearray(status.Get_count(MPI.BYTE))
        self._comm.Recv([frame, MPI.BYTE], source=source, tag=tag)
        return frame
