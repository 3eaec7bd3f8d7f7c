# SPDX-License-Identifier: Apache-2.0
"""Which model of a family a checkpoint is, as its configuration and its name tell; the library reads the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from lmi.api import ModelArtifacts, Problem, shape_of
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import differs, said

_CHATGLM = re.compile(r"chatglm(?P<generation>[23]?)[-_]?6b", re.IGNORECASE)
_BAICHUAN_VOCABULARIES = {64000: "v1", 125696: "v2"}
_BAICHUAN_HIDDEN = {4096: "7b", 5120: "13b"}
_BIGCODE_HIDDEN = {2048: "santacoder", 6144: "starcoder"}


def check_versions(artifacts: ModelArtifacts, config: TrtllmConfig, family: str) -> Iterator[Problem]:
    """A version that an option names, where the checkpoint is known to be another one."""
    for option, (owner, find) in _OPTIONS.items():
        if family != owner or not differs(config, option):
            continue
        found, why = find(artifacts)
        if found and getattr(config, option) not in found:
            yield Problem(
                code="config.conflict",
                message=f"{said(config, option)}, but the model is {' or '.join(found)}: {why}",
                hint=f"Remove option.{option}, or set it to {found[0]}",
                path=artifacts.folder,
                fields=(option,),
            )


def _chatglm(artifacts: ModelArtifacts) -> tuple[tuple[str, ...], str]:
    if "GLMModel" in artifacts.architectures or artifacts.model_type == "glm":
        return ("glm_10b",), f"config.json has model_type={artifacts.model_type}"
    if "position_encoding_2d" in artifacts.config or "inner_hidden_size" in artifacts.config:
        return ("chatglm_6b",), "config.json has the fields of the first generation"
    for name in _names(artifacts):
        found = _CHATGLM.search(name)
        if found:
            start = f"chatglm{found['generation']}_6b"
            tail = "_32k" if "32k" in name.lower() else "_base" if "base" in name.lower() else ""
            return (start + tail,), f"its name is {name}"
    if "multi_query_attention" in artifacts.config:
        versions = ("chatglm2_6b", "chatglm2_6b_32k", "chatglm3_6b", "chatglm3_6b_base", "chatglm3_6b_32k")
        return versions, "config.json has the fields of the later generations"
    return (), ""


def _baichuan(artifacts: ModelArtifacts) -> tuple[tuple[str, ...], str]:
    shape = shape_of(artifacts)
    generation, size = _BAICHUAN_VOCABULARIES.get(shape.vocab, ""), _BAICHUAN_HIDDEN.get(shape.hidden, "")
    if not generation or not size:
        return (), ""
    return (f"{generation}_{size}",), f"config.json has vocab_size={shape.vocab} and hidden_size={shape.hidden}"


def _gpt(artifacts: ModelArtifacts) -> tuple[tuple[str, ...], str]:
    name = next(iter(artifacts.architectures), "")
    hidden = shape_of(artifacts).hidden
    if name == "GPT2LMHeadModel":
        return ("gpt2",), f"config.json has the architecture {name}"
    if name == "GPT2LMHeadCustomModel":
        return ("santacoder",), f"config.json has the architecture {name}"
    if name == "GPTBigCodeForCausalLM" and hidden in _BIGCODE_HIDDEN:
        return (_BIGCODE_HIDDEN[hidden],), f"config.json has the architecture {name} and a hidden size of {hidden}"
    if name == "GPTBigCodeForCausalLM":
        return ("starcoder", "santacoder"), f"config.json has the architecture {name}"
    return (), ""


def _names(artifacts: ModelArtifacts) -> Iterator[str]:
    """What the model is called: by its configuration, and by its folder."""
    named = artifacts.config.get("_name_or_path")
    if isinstance(named, str) and named:
        yield named.rstrip("/").rpartition("/")[2]
    yield artifacts.folder.rstrip("/").rpartition("/")[2]


_OPTIONS: dict[str, tuple[str, Callable[[ModelArtifacts], tuple[tuple[str, ...], str]]]] = {
    "baichuan_model_version": ("baichuan", _baichuan),
    "chatglm_model_version": ("chatglm", _chatglm),
    "gpt_model_version": ("gpt2", _gpt),
}
"""Option -> its family, and what finds the version: those it may be, the likeliest first, and why."""
