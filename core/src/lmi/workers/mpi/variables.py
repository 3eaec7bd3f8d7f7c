# SPDX-License-Identifier: Apache-2.0
"""What engine libraries read of a rank, and where those of all ranks meet."""

from __future__ import annotations

import socket

from lmi.api.machine import Ranks


def rank_variables(ranks: Ranks, address: str, port: int) -> dict[str, str]:
    """The variables by which torch.distributed and its like know their rank.

    Args:
        ranks: the place of the process.
        address, port: where rank 0 listens for the others.
    """
    return {
        "RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.size), "LOCAL_RANK": str(ranks.local_rank),
        "LOCAL_WORLD_SIZE": str(ranks.local_size), "LOCAL_SIZE": str(ranks.local_size),
        "MASTER_ADDR": address, "MASTER_PORT": str(port),
    }  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])
