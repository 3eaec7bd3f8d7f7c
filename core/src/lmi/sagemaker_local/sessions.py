# SPDX-License-Identifier: Apache-2.0
"""Stateful sessions: each stays with the copy that opened it."""

from __future__ import annotations

from datetime import datetime, timezone

from lmi.sagemaker_local.container import Container
from lmi.sagemaker_local.headers import new_session


class Sessions:
    """The open ones of an endpoint."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Container, datetime]] = {}

    def opened(self, header: str, container: Container) -> datetime | None:
        """Keep a new one; when it ends, or None where the header that names it is not what it has to be.

        Args:
            header: New-Session-Id, as the container sent it.
            container: the copy that sent it.
        """
        found = new_session(header)
        if found is None:
            return None
        try:
            end = datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        except ValueError:  # the 31st of February
            return None
        self._open[found[0]] = (container, end)
        return end

    def closed(self, name: str) -> None:
        """Forget one."""
        self._open.pop(name, None)

    def container_of(self, name: str) -> Container | None:
        """The copy that has it; None where there is none, or it is over."""
        container, end = self._open.get(name, (None, None))
        if end is not None and end < datetime.now(timezone.utc):
            self.closed(name)
            return None
        return container
