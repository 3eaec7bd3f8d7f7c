# SPDX-License-Identifier: Apache-2.0
"""From problems with an engine library to the one error that ends a load."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from lmi.api.errors import EngineLoadError, Problem, Severity, counted

_LOG = logging.getLogger(__name__)


def refuse_engine(backend: str, problems: Iterable[Problem]) -> None:
    """Refuse an engine library that a backend cannot drive; what is doubtful about it is logged.

    Args:
        backend: its name.
        problems: what was found; without an error among them nothing is refused.
    Raises:
        EngineLoadError: with every error.
    """
    errors = []
    for problem in problems:
        if problem.severity is Severity.ERROR:
            errors.append(problem)
        else:
            _LOG.warning("%s", problem)
    if len(errors) == 1:
        raise EngineLoadError(errors[0].code, errors[0].message, errors[0].hint)
    if errors:
        listed = "".join(f"\n  {problem}" for problem in errors)
        message = f"{counted(len(errors), 'problem')} with the engine of {backend}; nothing was loaded:{listed}"
        raise EngineLoadError("engine.unfit", message)
