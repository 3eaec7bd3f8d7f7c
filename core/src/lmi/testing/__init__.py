# SPDX-License-Identifier: Apache-2.0
"""The conformance kit for backends: what a plugin's author runs against a plugin. Needs ``lmi-core[testing]``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmi.testing.case import BackendCase
    from lmi.testing.checkpoints import ARCHITECTURES, write_tiny, write_tiny_adapter
    from lmi.testing.contract import BackendContract

_HOMES = {
    "ARCHITECTURES": "checkpoints",
    "BackendCase": "case",
    "BackendContract": "contract",
    "write_tiny": "checkpoints",
    "write_tiny_adapter": "checkpoints",
}

__all__ = ["ARCHITECTURES", "BackendCase", "BackendContract", "write_tiny", "write_tiny_adapter"]


def __getattr__(name: str) -> Any:
    # Lazy, because pytest imports this package in every run of an environment that has it.
    if name not in _HOMES:
        raise AttributeError(f"lmi.testing has no {name!r}")
    return getattr(import_module(f"lmi.testing.{_HOMES[name]}"), name)
