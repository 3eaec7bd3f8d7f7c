# SPDX-License-Identifier: Apache-2.0
"""What SageMaker tells a container about itself, in variables and folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmi.api.errors import ConfigError

MULTI_MODEL = "SAGEMAKER_MULTI_MODEL"
SAFE_PORTS = "SAGEMAKER_SAFE_PORT_RANGE"
BATCH = "SAGEMAKER_BATCH"
BATCH_STRATEGY = "SAGEMAKER_BATCH_STRATEGY"
MAX_PAYLOAD_MB = "SAGEMAKER_MAX_PAYLOAD_IN_MB"
MAX_TRANSFORMS = "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"
SINGLE_RECORD, MULTI_RECORD = "SINGLE_RECORD", "MULTI_RECORD"

_OF_THE_PLATFORM = ("SAGEMAKER_BIND_TO_PORT", SAFE_PORTS, MULTI_MODEL, BATCH)
"""Variables that nobody else sets."""
_FOLDER = Path("opt/ml")
_LAST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container that this process runs in.

    Source: the SageMaker Developer Guide, on custom inference code.

    Args:
        is_sagemaker: the platform runs it, or something that behaves as the platform does.
        is_multi_model: the platform loads and unloads models while it runs; it starts with none.
        is_batch: it runs for a batch transform job.
        safe_ports: the first and the last port that it may listen on beside the one for requests; None: any.
        batch_strategy, max_payload_mb, max_transforms: what the owner of a batch transform job has chosen: records in a
            body, MB in one (0: no limit), and bodies at the same time; None where that is left to the container.
    """

    is_sagemaker: bool = False
    is_multi_model: bool = False
    is_batch: bool = False
    safe_ports: tuple[int, int] | None = None
    batch_strategy: str | None = None
    max_payload_mb: int | None = None
    max_transforms: int | None = None

    @property
    def has_deadlines(self) -> bool:
        """Whether the platform stops waiting for an answer after a known time; a batch job says how long, but not to
        the container."""
        return self.is_sagemaker and not self.is_batch

    @classmethod
    def of(cls, environ: Mapping[str, str], root: Path = Path("/")) -> Container:
        """What the variables say, and the folders under a root.

        Raises:
            ConfigError: a variable is not in its form.
        """
        is_told = any(environ.get(name, "").strip() for name in _OF_THE_PLATFORM)
        return cls(
            is_sagemaker=is_told or (root / _FOLDER).is_dir(),
            is_multi_model=_is_on(environ, MULTI_MODEL),
            is_batch=_is_on(environ, BATCH),
            safe_ports=_ports(environ),
            batch_strategy=_strategy(environ),
            max_payload_mb=_number(environ, MAX_PAYLOAD_MB),
            max_transforms=_number(environ, MAX_TRANSFORMS),
        )


def _is_on(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").strip().lower() == "true"


def _ports(environ: Mapping[str, str]) -> tuple[int, int] | None:
    text = environ.get(SAFE_PORTS, "").strip()
    if not text:
        return None
    low, _, high = (part.strip() for part in text.partition("-"))
    if low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high) <= _LAST_PORT:
        return int(low), int(high)
    raise _malformed(SAFE_PORTS, text, "Write the first and the last port, like 9000-9099")


def _strategy(environ: Mapping[str, str]) -> str | None:
    text = environ.get(BATCH_STRATEGY, "").strip()
    known = {"SINGLERECORD": SINGLE_RECORD, "MULTIRECORD": MULTI_RECORD}.get(text.replace("_", "").upper())
    if text and known is None:
        raise _malformed(BATCH_STRATEGY, text, f"Write {SINGLE_RECORD} or {MULTI_RECORD}, or leave it out")
    return known


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if text.isdecimal():
        return int(text)
    raise _malformed(name, text, "Write a whole number, or leave it out")


def _malformed(name: str, text: str, hint: str) -> ConfigError:
    return ConfigError("config.invalid-value", f"{name}={text!r} is not in its form", (), hint)
