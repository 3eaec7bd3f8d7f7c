# SPDX-License-Identifier: Apache-2.0
"""What engine libraries read of a rank, and where those of all ranks meet."""

from __future__ import annotations

import contextlib
import random
import socket

from lmi.api.errors import EngineLoadError
from lmi.api.machine import Ranks
from lmi.container import SAFE_PORTS


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


def free_port(within: tuple[int, int] | None = None) -> int:
    """A port that nobody listens on now.

    Args:
        within: the first and the last that it may be; None: any.
    Raises:
        EngineLoadError: all of them are taken.
    """
    if within is not None:
        return _free_ports(within, 1)[0]
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])


def _free_ports(within: tuple[int, int], n_ports: int) -> list[int]:
    low, high = within
    found: list[int] = []
    # Beginning anywhere, so that two who look at the same time seldom find the same.
    for port in random.sample(range(low, high + 1), high - low + 1):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            found.append(port)
        if len(found) == n_ports:
            return found
    raise EngineLoadError(
        "worker.no-port",
        f"of {SAFE_PORTS}={low}-{high} only {len(found)} can be listened on, and {n_ports} are needed",
        "Widen it, or start fewer workers",
    )


def port_variables(within: tuple[int, int]) -> dict[str, str]:
    """The variables by which Open MPI, 4 and 5, and what starts its ranks listen in a range of ports alone.

    Args:
        within: the first and the last port.
    Raises:
        EngineLoadError: there are not two for what starts the ranks.
    """
    families, (low, high) = ("v4", "v6"), within
    starts = zip(families, _free_ports(within, len(families)), strict=True)
    own = {f"oob_tcp_dynamic_ip{family}_ports": str(port) for family, port in starts}
    of_ranks = {f"btl_tcp_port_min_{family}": str(low) for family in families}
    of_ranks |= {f"btl_tcp_port_range_{family}": str(high - low + 1) for family in families}
    return {
        **{f"PRTE_MCA_{name}": value for name, value in own.items()},
        **{f"OMPI_MCA_{name}": value for name, value in (own | of_ranks).items()},
    }
