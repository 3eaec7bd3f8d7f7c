# SPDX-License-Identifier: Apache-2.0
"""Whether a backend's problems name the options they speak of, which is how users learn where each was set."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lmi.api import BackendConfig, Problem

_OF_THE_MODEL = re.compile(r"(?:compiled with|config.json has no) \S+")
"""What a model says of itself, under names that options have, too."""

_WRITTEN = re.compile(r"(?<!the )\b(\w+)(?:=| is )")
"""``dtype=fp16``, ``dtype is fp16``; not ``the checkpoint is``, which is no option."""


def named(message: str, config_type: type[BackendConfig]) -> set[str]:
    """The options that a message speaks of."""
    text = _OF_THE_MODEL.sub("", message)
    words = {*_WRITTEN.findall(text), *(word for word in re.findall(r"\w+", text) if "_" in word)}
    return words & config_type.model_fields.keys()


def placed(problems: Iterable[Problem], config_type: type[BackendConfig]) -> list[Problem]:
    """The problems, once it is sure that the fields of each hold every option that its message names."""
    found = list(problems)
    for problem in found:
        assert named(problem.message, config_type) <= set(problem.fields), problem
        assert set(problem.fields) <= config_type.model_fields.keys(), problem
        assert problem.source == "", f"{problem}: the core knows where options were set"
    return found
