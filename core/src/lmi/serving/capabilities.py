# SPDX-License-Identifier: Apache-2.0
"""What a request asks and its backend does not declare is refused before it gets there, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from lmi.api.backend import BackendInfo, Capability
from lmi.api.errors import UnsupportedError
from lmi.api.requests import SamplingParams

SAMPLING_CAPABILITIES = frozenset(each for each in Capability if each.value in SamplingParams.__struct_fields__)
"""Those that a field of SamplingParams asks for."""

_DEFAULTS = SamplingParams(max_tokens=1)


def as_field(name: str, value: Any) -> str:
    """A field of SamplingParams and its value, for a refusal."""
    return f"{name}={value!r}"


def refuse_undeclared(
    info: BackendInfo,
    sampling: SamplingParams,
    adapter: str,
    backends: Mapping[str, BackendInfo],
    asked_as: Callable[[str, Any], str] = as_field,
) -> None:
    """Refuse what a backend does not declare.

    Args:
        info: the backend's description.
        sampling: what the request asks for.
        adapter: name of the adapter it asks for; empty for none.
        backends: what is installed, to name those that offer it.
        asked_as: how the caller put a field of SamplingParams and its value.
    Raises:
        UnsupportedError: naming all of it.
    """
    asked = [name for name in _undeclared(info.capabilities) if getattr(sampling, name) != getattr(_DEFAULTS, name)]
    if asked:
        # Two fields may come of one parameter.
        texts = ", ".join(dict.fromkeys(asked_as(name, getattr(sampling, name)) for name in asked))
        raise UnsupportedError(
            "request.unsupported",
            f"{texts} was asked, but backend {info.name!r} does not offer it",
            _who_offers(frozenset(map(Capability, asked)), backends),
        )
    if adapter and Capability.ADAPTERS not in info.capabilities:
        raise UnsupportedError(
            "request.unsupported",
            f"adapter={adapter!r} was asked, but backend {info.name!r} has no adapters",
            _who_offers(frozenset({Capability.ADAPTERS}), backends),
        )


def without_undeclared(info: BackendInfo, sampling: SamplingParams) -> tuple[SamplingParams, list[str]]:
    """What a request asks for without what a backend does not declare, and the fields that were reset."""
    names = [name for name in _undeclared(info.capabilities) if getattr(sampling, name) != getattr(_DEFAULTS, name)]
    if names:
        sampling = msgspec.structs.replace(sampling, **{name: getattr(_DEFAULTS, name) for name in names})
    return sampling, names


@lru_cache(maxsize=64)
def _undeclared(declared: frozenset[Capability]) -> tuple[str, ...]:
    return tuple(sorted(each.value for each in SAMPLING_CAPABILITIES - declared))


def _who_offers(wanted: frozenset[Capability], backends: Mapping[str, BackendInfo]) -> str:
    names = sorted(name for name, info in backends.items() if wanted <= info.capabilities)
    if not names:
        return "No installed backend offers it; leave it out"
    return f"Leave it out, or serve the model with a backend that offers it: {', '.join(names)}"
