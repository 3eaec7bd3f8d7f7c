# SPDX-License-Identifier: Apache-2.0
"""Typed options of a backend: the core parses text into them, a plugin never sees raw strings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lmi.api.errors import Severity

_DTYPE_NAMES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "f16": "fp16", "float32": "fp32", "float": "fp32",
    "f32": "fp32",
}  # fmt: skip


def dtype_name(value: Any) -> Any:
    """LMI's name of a number type that is spelt as the engines do: ``float16`` is ``fp16``; case does not count.

    For a ``field_validator(..., mode="before")``; what is no text, or no such name, is left to be judged.
    """
    if not isinstance(value, str):
        return value
    name = value.lower().removeprefix("torch.")
    return _DTYPE_NAMES.get(name, name)


def option(
    default: Any = ...,
    *,
    description: str,
    unit: str = "",
    aliases: tuple[str, ...] = (),
    old_names: tuple[str, ...] = (),
    is_model: bool = False,
    is_folder: bool = False,
    **bounds: Any,
) -> Any:
    """Declare one option of a BackendConfig.

    Args:
        default: value when nothing is set; ``...`` makes it required.
        description: what it does and when to turn it on; appears in the generated reference.
        unit: ``tokens``, ``bytes``, ``s``, ``threads``; empty for plain numbers, switches and names.
        aliases: further names under which users know this option.
        old_names: names that still work, with a warning that names the new one.
        is_model: the value says where another model is. The core looks at it, fetches it from an object store, and
            gives it to the backend as ``ModelArtifacts.further``; a name on the hub is left to the backend.
        is_folder: the value says where a folder is that is no model, such as compiled code. One in an object store is
            looked at and fetched like a model, and is in ``ModelArtifacts.further`` then; one on this machine is left
            to the backend.
        bounds: pydantic bounds (``ge``, ``le``, ``gt``, ``lt``, ``pattern``).
    """
    extra: dict[str, Any] = {"unit": unit, "aliases": list(aliases), "old_names": list(old_names)}
    if is_model:
        extra["is_model"] = True
    if is_folder:
        extra["is_folder"] = True
    return Field(default, description=description, json_schema_extra=extra, **bounds)


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Options that do not go together, or one that has no effect as the others stand.

    Args:
        fields: names of the fields, the one to change first; the core adds where each was set.
        message: what is wrong, with the values.
        hint: what to do.
        severity: errors stop the start, warnings are printed.
        code: another one than ``config.conflict``, such as ``config.deprecated`` for a value with a successor.
    """

    fields: tuple[str, ...]
    message: str
    hint: str
    severity: Severity = Severity.ERROR
    code: str = "config.conflict"


class BackendConfig(BaseModel):
    """Options every backend has. Subclass it, add fields with ``option``; defaults may be overridden.

    Frozen and closed: an unknown key never reaches a plugin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    adapters_switch: ClassVar[str] = ""
    """Name of the option that must be true for adapters to be served; empty where they need none."""

    max_rolling_batch_size: int = option(
        32, description="Sequences that run at the same time in one copy of the model.", unit="sequences", ge=1
    )
    tensor_parallel_degree: int = option(
        1, description="Devices one copy of the model is split over.", unit="devices", ge=1
    )
    trust_remote_code: bool = option(
        False, description="Run Python files that come with the model. Turn on only for models you have read."
    )

    @property
    def n_devices(self) -> int:
        """Devices one copy of the model takes; a backend that splits a model further than by tensors says so here."""
        return self.tensor_parallel_degree

    @property
    def serves_adapters(self) -> bool:
        """Whether requests may name adapters as these options stand, if the backend can serve any."""
        return not self.adapters_switch or bool(getattr(self, self.adapters_switch))

    def conflicts(self) -> Iterator[Conflict]:
        """Everything that is wrong with these options together; ``self.model_fields_set`` tells what was set."""
        return iter(())
