# SPDX-License-Identifier: Apache-2.0
"""What is said where the lmi-core of another Python does not understand this one."""

from __future__ import annotations

import lmi
from lmi.api.backend import CONTRACT_VERSION
from lmi.api.errors import EngineLoadError


def other_contract(python: str, core_version: str, contract_version: int) -> EngineLoadError:
    """The error for a worker's Python whose lmi-core speaks another contract.

    Args:
        python: the worker's.
        core_version, contract_version: of the lmi-core there.
    """
    message = (
        f"the worker's lmi-core {core_version} ({python}) speaks contract {contract_version}, "
        f"this server's {lmi.__version__} speaks {CONTRACT_VERSION}"
    )
    return EngineLoadError("worker.other-contract", message, "Install the same lmi-core in both environments")
