# SPDX-License-Identifier: Apache-2.0
"""What SageMaker tells a container about itself, in variables and folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MULTI_MODEL = "SAGEMAKER_MULTI_MODEL"
BATCH = "SAGEMAKER_BATCH"
_OF_THE_PLATFORM = ("SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_SAFE_PORT_RANGE", MULTI_MODEL, BATCH)
"""Variables that nobody else sets."""
_FOLDER = Path("opt/ml")


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container that this process runs in.

    Source: the SageMaker Developer Guide, on custom inference code.

    Args:
        is_sagemaker: the platform runs it, or something that behaves as the platform does.
        is_multi_model: the platform loads and unloads models while it runs; it starts with none.
        is_batch: it runs for a batch transform job.
    """

    is_sagemaker: bool = False
    is_multi_model: bool = False
    is_batch: bool = False

    @property
    def has_deadlines(self) -> bool:
        """Whether the platform stops waiting for an answer after a known time; a batch job says how long, but not to
        the container."""
        return self.is_sagemaker and not self.is_batch

    @classmethod
    def of(cls, environ: Mapping[str, str], root: Path = Path("/")) -> Container:
        """What the variables say, and the folders under a root."""
        is_told = any(environ.get(name, "").strip() for name in _OF_THE_PLATFORM)
        return cls(
            is_sagemaker=is_told or (root / _FOLDER).is_dir(),
            is_multi_model=_is_on(environ, MULTI_MODEL),
            is_batch=_is_on(environ, BATCH),
        )


def _is_on(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").strip().lower() == "true"
