# SPDX-License-Identifier: Apache-2.0
"""Rules about a model that several backends share. Each gives the problems it finds; none touches a disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmi.api.artifacts import ModelArtifacts
from lmi.api.errors import Problem
from lmi.api.shapes import language_part


def degree_problems(
    artifacts: ModelArtifacts, degree: int, sizes: Mapping[str, int], otherwise: str = ""
) -> list[Problem]:
    """Say that a degree does not divide what every device gets an equal part of.

    Args:
        artifacts: the model.
        degree: tensor_parallel_degree.
        sizes: what is divided (``attention heads``) -> how many there are; 0 where it is not known.
        otherwise: what else may be done, after the degrees that do divide it: ``or use ...``.
    """
    known = {what: size for what, size in sizes.items() if size > 0}
    uneven = [f"{size} {what}" for what, size in known.items() if size % degree]
    if not uneven:
        return []
    fitting = [each for each in range(1, degree) if not any(size % each for size in known.values())]
    choices = f"to one of {', '.join(map(str, fitting))}" if len(fitting) > 1 else f"to {fitting[0]}"
    hint = f"Set option.tensor_parallel_degree {choices}"
    return [
        Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {degree}, which does not divide the model's {' and '.join(uneven)}",
            hint=f"{hint}, {otherwise}" if otherwise else hint,
            path=artifacts.folder,
            fields=("tensor_parallel_degree",),
        )
    ]


def context_problems(artifacts: ModelArtifacts, asked: int | None, field: str = "max_model_len") -> list[Problem]:
    """Say that a wanted length is more than the model was made for.

    Args:
        artifacts: the model; one that names no limit has none.
        asked: prompt and output together; None or 0 where nobody asked.
        field: the option that asks for it.
    """
    limit = artifacts.max_context_tokens
    if not limit or not asked or asked <= limit:
        return []
    return [
        Problem(
            code="config.max-model-len",
            message=f"{field} is {asked} tokens, the model takes {limit}",
            hint=f"Set option.{field}={limit} or leave it out",
            fields=(field,),
        )
    ]


def quantization_of(artifacts: ModelArtifacts) -> dict[str, Any]:
    """How a checkpoint is compressed: its own section with ``quant_method`` in lower case; empty where it is not.

    Besides ``config.json``, the files are looked at that compressors write beside it.

    Args:
        artifacts: the model.
    """
    text, config = language_part(artifacts.config), artifacts.config
    for section in (
        config.get("quantization_config"),
        text.get("quantization_config"),
        config.get("compression_config"),
    ):
        if isinstance(section, dict) and section:
            method = str(section.get("quant_method") or "").lower()
            return {**section, "quant_method": method or _unnamed(section)}
    modelopt = artifacts.document("hf_quant_config.json").get("quantization")
    if isinstance(modelopt, dict):
        return {**modelopt, "quant_method": "modelopt"}
    own = artifacts.document("params.json").get("quantization")
    if isinstance(own, dict) and not config:
        return {**own, "quant_method": "fp8" if "fp8" in str(own.get("qformat_weight")) else "unknown"}
    for name in ("quantize_config.json", "quant_config.json"):
        section = artifacts.document(name)
        if section:
            return {**section, "quant_method": str(section.get("quant_method") or _unnamed(section)).lower()}
    return {}


def _unnamed(section: Mapping[str, Any]) -> str:
    """The method of a section that does not name it, by keys that only its compressor writes."""
    if "w_bit" in section or "q_group_size" in section:
        return "awq"
    if "desc_act" in section or ("bits" in section and "group_size" in section):
        return "gptq"
    if "load_in_4bit" in section or "load_in_8bit" in section:
        return "bitsandbytes"
    return "unknown"


__all__ = ["context_problems", "degree_problems", "quantization_of"]
