# SPDX-License-Identifier: Apache-2.0
"""What SageMaker tells a container about itself, in variables and folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MULTI_MODEL = "SAGEMAKER_MULTI_MODEL"
_OF_THE_PLATFORM = ("SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_SAFE_PORT_RANGE", MULTI_MODEL, "SAGEMAKER_BATCH")
"""Variables that nobody else sets."""
_FOLDER = Path("opt/ml")


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container that this process runs in.

    Source: the SageMaker Developer Guide, on custom inference code.

    Args:
        is_sagemaker: the platform runs it, or something that behaves as the platform does.
        is_multi_model: the platform loads and unloads models while it runs; it starts with none.
    """

    is_sagemaker: bool = False
    is_multi_model: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str], root: Path = Path("/")) -> Container:
        """What the variables say, and the folders under a root."""
        is_told = any(environ.get(name, "").strip() for name in _OF_THE_PLATFORM)
        return cls(
            is_sagemaker=is_told or (root / _FOLDER).is_dir(),
            is_multi_model=environ.get(MULTI_MODEL, "").strip().lower() == "true",
        )
