# SPDX-License-Identifier: Apache-2.0
"""Stand-in: one answer of a request, as recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CompletionOutput:
    index: Any
    text: Any = ""
    token_ids: Any = field(default_factory=list)
    finish_reason: Any = None
    stop_reason: Any = None
    generation_logits: Any = None
    logprobs: Any = None
    prompt_logprobs: Any = None
