# SPDX-License-Identifier: Apache-2.0
"""Whether a distribution was made for this version of the core, by its own metadata and before it is imported."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution
from typing import TYPE_CHECKING

import lmi

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

CORE = "lmi-core"
"""Name of the distribution that holds this file."""


def other_core(owner: Distribution | None) -> str:
    """The versions of the core that a distribution was made for, as ``>=0.2,<0.3``; "" where this one is among them.

    Requirements of extras do not count, nor those whose marker does not hold here; without any requirement on the core
    nothing is known, and nothing is held against it.

    Source: Requires-Dist of the core metadata specification; PEP 440, PEP 508.
    """
    # Most requirements are on other packages; importing packaging for them would cost a tenth of a start.
    written = [text for text in (owner.requires if owner else None) or [] if text.lower().startswith("lmi")]
    if not written:
        return ""
    from packaging.version import Version

    ranges = list(_ranges(written))
    version = Version(lmi.__version__)
    fits = all(each.contains(version, prereleases=True) for each in ranges)
    # Lower bounds first, as people write them; packaging has them in no order.
    return "" if fits else ",".join(sorted((str(part) for each in ranges for part in each), reverse=True))


def _ranges(written: list[str]) -> Iterator[SpecifierSet]:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    for text in written:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # pip's affair: it says so on every install
        holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if holds and canonicalize_name(requirement.name) == CORE:
            yield requirement.specifier
