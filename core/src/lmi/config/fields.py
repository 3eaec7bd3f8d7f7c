# SPDX-License-Identifier: Apache-2.0
"""Which keys the fields of an options class answer to, and which setting fills which field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lmi.config import names
from lmi.config.settings import Setting


@lru_cache(maxsize=64)
def keys_of(model_type: type[BaseModel]) -> Mapping[str, str]:
    """Canonical key -> field name, for every name a field answers to; the main one first."""
    keys: dict[str, str] = {}
    for field_name, info in model_type.model_fields.items():
        for key in (main_key(field_name, info), *map(names.canonical, further_names(info))):
            keys.setdefault(key, field_name)
    return MappingProxyType(keys)


def main_key(field_name: str, info: FieldInfo) -> str:
    """The canonical key of a field."""
    return names.canonical(info.alias or field_name)


def further_names(info: FieldInfo) -> list[str]:
    """The aliases and old names of a field."""
    return [*_names_in(info, "aliases"), *old_names(info)]


def old_names(info: FieldInfo) -> list[str]:
    """The names of a field that have a successor."""
    return _names_in(info, "old_names")


def matching_key(setting: Setting, keys: Collection[str]) -> str:
    """The key that a setting is for, or "". Variables cannot spell capitals, so for them case does not count."""
    if setting.key in keys:
        return setting.key
    if setting.written == setting.source:
        return next((key for key in keys if key.lower() == setting.key.lower()), "")
    return ""


def _names_in(info: FieldInfo, kind: str) -> list[str]:
    extra = info.json_schema_extra
    found: Any = extra.get(kind, []) if isinstance(extra, dict) else []
    return list(found)
