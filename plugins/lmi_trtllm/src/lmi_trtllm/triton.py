# SPDX-License-Identifier: Apache-2.0
"""What ``config.pbtxt`` says that options say here: the file is for Triton, whose place LMI takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lmi.api import ModelArtifacts, Problem, Severity
from lmi_trtllm.built import BuiltEngines, joined, triton_text
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import said

_IN_FLIGHT = ("inflight_fused_batching", "inflight_batching")
_DECOUPLED = re.compile(r"\bdecoupled\s*:\s*(\w+)")
_OPTIONS = (
    "batch_scheduler_policy", "kv_cache_free_gpu_mem_fraction", "max_num_sequences", "enable_trt_overlap",
    "enable_kv_cache_reuse",
)  # fmt: skip
"""Parameters that are options, too, under the same names."""


def check_triton(artifacts: ModelArtifacts, engines: BuiltEngines, config: TrtllmConfig) -> Iterator[Problem]:
    """Warn where the file asks for something else than what will be done."""
    path = joined(artifacts.folder, joined(artifacts.inner, "config.pbtxt"))
    asks = list(_not_for_streaming(artifacts, engines))
    if asks:
        yield Problem(
            code="model.triton-config",
            message=f"config.pbtxt has {' and '.join(asks)}; here requests stream and are batched in flight all the "
            "same",
            hint="To run it in Triton, or in LMI's original container, set decoupled: True and inflight_fused_batching",
            path=path,
            severity=Severity.WARNING,
        )
    elsewhere = engines.parameters.get("gpt_model_path", "")
    if elsewhere and not engines.ranks:
        yield Problem(
            code="model.triton-config",
            message=f"config.pbtxt looks for the engines in {elsewhere}; here they are looked for in {engines.folder}",
            hint="Copy them there",
            path=path,
            severity=Severity.WARNING,
        )
    for name in _OPTIONS:
        value = engines.parameters.get(name, "")
        wanted, held = _typed(value, TrtllmConfig.model_fields[name].default, config, name)
        if value and name not in config.model_fields_set and wanted != held:
            yield Problem(
                code="model.triton-config",
                message=f"config.pbtxt has {name}={value}, which is not read here; {said(config, name)}",
                hint=f"Set option.{name}={value} to keep it",
                path=path,
                severity=Severity.WARNING,
                fields=(name,),
            )


def _not_for_streaming(artifacts: ModelArtifacts, engines: BuiltEngines) -> Iterator[str]:
    found = _DECOUPLED.search(triton_text(artifacts))
    if found is not None and found[1].lower() == "false":
        yield "decoupled: False"
    batching = engines.parameters.get("gpt_model_type", "")
    if batching and batching.lower() not in _IN_FLIGHT:
        yield f"gpt_model_type={batching}"


def _typed(value: str, default: Any, config: TrtllmConfig, name: str) -> tuple[Any, Any]:
    """The parameter and the option as values that can be compared; equal ones where the parameter is no value."""
    held = config.engine_batch_size if name == "max_num_sequences" else getattr(config, name)
    try:
        if isinstance(default, bool):
            return value.lower() == "true", held
        if isinstance(held, int | float):
            return float(value), float(held)
    except ValueError:
        return held, held
    return value.lower(), held
