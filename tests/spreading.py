# SPDX-License-Identifier: Apache-2.0
"""How pytest-xdist shares the tests out among processes: a file stays whole, and some files stay together.

Files are started in the order in which they are collected, so a process that is through takes the next one.
"""

from __future__ import annotations

import re
from typing import Any

from xdist.scheduler import LoadScopeScheduling

_TOGETHER = re.compile(r"^tests/packages/|vllm")
"""Files that use the same wheels, and those with an engine that wants the machine for itself."""


def group_of(nodeid: str) -> str:
    """Tests of one group run in one process, one after the other."""
    path = nodeid.partition("::")[0]
    found = _TOGETHER.search(path)
    return found[0] if found else path


class Spreading(LoadScopeScheduling):
    """Gives each process a group of tests at a time."""

    def __init__(self, config: Any, log: Any = None) -> None:
        config.option.loadscopereorder = False  # many tests are not long ones
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
