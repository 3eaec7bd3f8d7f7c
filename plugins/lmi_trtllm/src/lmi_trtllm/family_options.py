# SPDX-License-Identifier: Apache-2.0
"""Options that only some model families have."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from lmi.api import BackendConfig, option

ORIGINAL_ROTARY_BASE = 10000.0
ORIGINAL_ROTARY_DIM = 64
"""What LMI documents as defaults; given explicitly they never stop a start."""


class FamilyOptions(BackendConfig):
    """Options that are refused, or do nothing, for models of other families."""

    baichuan_model_version: Literal["v1_7b", "v1_13b", "v2_7b", "v2_13b"] = option(
        "v1_13b",
        description=(
            "Which Baichuan the checkpoint is, generation and size: v1_13b is baichuan-inc/Baichuan-13B-Chat or -Base, "
            "v2_13b is baichuan-inc/Baichuan2-13B-Chat or -Base. For Baichuan models only."
        ),
    )
    chatglm_model_version: Literal[
        "unspecified", "chatglm_6b", "chatglm2_6b", "chatglm2_6b_32k", "chatglm3_6b", "chatglm3_6b_base",
        "chatglm3_6b_32k", "glm_10b",
    ] = option(
        "unspecified",
        description=(
            "Which ChatGLM the checkpoint is. A ChatGLM model that is built while it loads needs it; others ignore it. "
            "chatglm3 is read as chatglm3_6b."
        ),
    )  # fmt: skip
    gpt_model_version: Literal["gpt2", "santacoder", "starcoder"] = option(
        "gpt2",
        description=(
            "Which model of the GPT-2 kind the checkpoint is. For GPT-2 and GPT-BigCode models only; set it for "
            "SantaCoder and StarCoder."
        ),
    )
    multi_block_mode: bool = option(
        False,
        description=(
            "Split long cached sequences over several blocks of the GPU while generating. Turn it on where batch size "
            "times attention heads is too small to keep the GPU busy. Not for Qwen."
        ),
    )
    use_fused_mlp: bool = option(
        False,
        description=(
            "Fuse the two input projections of the gated MLP, which saves reads. Worth trying for large Llama models, "
            "70B for example. For Llama only."
        ),
    )
    rotary_base: float | None = option(
        None,
        description=(
            "Base of the rotary embedding, for Llama, InternLM and Qwen. Unset: what the checkpoint says, and 10000.0 "
            "where it says nothing."
        ),
        unit="base",
        gt=0,
    )
    rotary_dim: int | None = option(
        None,
        description=(
            "Rotated dimensions of a head, for GPT-J only. Unset: what the checkpoint says, and 64 where it says "
            "nothing."
        ),
        unit="dimensions",
        ge=1,
    )
    rotary_scaling_type: Literal["linear", "dynamic"] | None = option(
        None,
        description=(
            "How rotary positions are stretched for contexts longer than the model was trained on, for Llama, Qwen and "
            "InternLM. Set it together with rotary_scaling_factor."
        ),
    )
    rotary_scaling_factor: float | None = option(
        None,
        description="How far rotary positions are stretched. Set it together with rotary_scaling_type.",
        unit="times",
        gt=1.0,
    )

    @field_validator("chatglm_model_version", mode="before")
    @classmethod
    def _name_chatglm(cls, value: Any) -> Any:
        return "chatglm3_6b" if isinstance(value, str) and value.lower() == "chatglm3" else value
