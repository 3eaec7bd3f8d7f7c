# SPDX-License-Identifier: Apache-2.0
"""What engines that were built before were built for, as their files say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmi.api import MANIFEST, ArtifactFormat, ModelArtifacts, dtype_name

MAX_DEGREE = 128
"""Most GPUs that a model is split over, or stages it has."""

BUILT_FORMATS = (ArtifactFormat.TRITON_REPOSITORY, ArtifactFormat.ENGINES)

_ENGINE = re.compile(r"(?:^|.*_)rank(?P<rank>\d{1,3})\.engine")
_NAME = re.compile(r".*?(?:_(?P<dtype>float16|bfloat16|float32))?(?:_tp(?P<tp>\d{1,3}))?(?:_pp(?P<pp>\d{1,3}))?_rank")
"""``llama_float16_tp2_rank0.engine``, as versions before 0.8 name an engine."""

_PARAMETER = re.compile(r'key:\s*"(?P<key>[^"]*)"\s*,?\s*value:?\s*\{\s*string_value:\s*"(?P<value>[^"]*)"')
_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)

_LIMITS = ("max_batch_size", "max_input_len", "max_output_len", "max_seq_len", "max_num_tokens", "max_draft_len")


@dataclass(frozen=True, kw_only=True)
class BuiltEngines:
    """Engines of one model; 0, "" and empty mean that nothing says.

    Args:
        folder: that holds the engine files, relative to the model's folder.
        ranks: of the engine files there are, in order.
        has_config: whether the engines' own ``config.json`` was found and read.
        tensor_parallel, pipeline_parallel: that the engines were built for.
        dtype: LMI's name of the number type.
        quantization: the name of the method.
        version: of the TensorRT-LLM that built them.
        architecture: class name of the model.
        compute_capability: of the GPU they were built on, ``8.6``.
        limits: ``max_batch_size``, ``max_input_len`` and the like -> value.
        gathers_prompt_logits: whether they give the logits of a prompt.
        lora_modules: matrices that adapters may change, as the library names them; empty where they take none.
        max_lora_rank: largest rank of an adapter.
        plugins: the section ``plugin_config``.
        parameters: of ``config.pbtxt``, name -> value.
    """

    folder: str = ""
    ranks: tuple[int, ...] = ()
    has_config: bool = False
    tensor_parallel: int = 0
    pipeline_parallel: int = 0
    dtype: str = ""
    quantization: str = ""
    version: str = ""
    architecture: str = ""
    compute_capability: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    gathers_prompt_logits: bool = False
    lora_modules: tuple[str, ...] = ()
    max_lora_rank: int = 0
    plugins: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_name(self) -> str:
        """The engines' own configuration, relative to the model's folder."""
        return joined(self.folder, "config.json")

    @property
    def n_ranks(self) -> int:
        """Engine files that there must be; 0 where nothing says how many."""
        return self.tensor_parallel * (self.pipeline_parallel or 1)


def is_built(artifacts: ModelArtifacts) -> bool:
    """Whether a model is built engines: as the library saves them, or in a repository for Triton."""
    return artifacts.format in BUILT_FORMATS


def read_built(artifacts: ModelArtifacts) -> BuiltEngines:
    """What the engines of a model were built for; both forms of their configuration are understood.

    Versions before 0.8 write the sections ``builder_config`` and ``plugin_config``, later ones ``pretrained_config``
    and ``build_config``.
    """
    parameters = triton_parameters(artifacts)
    folder = _engine_folder(artifacts, parameters.get("gpt_model_path", ""))
    names = [each.rpartition("/")[2] for each in artifacts.files if each.rpartition("/")[0] == folder]
    ranks = {name: int(found["rank"]) for name in names if (found := _ENGINE.fullmatch(name))}
    content = artifacts.document(joined(folder, "config.json"))
    old, model, build = (section(content, name) for name in ("builder_config", "pretrained_config", "build_config"))
    mapping = section(model, "mapping")
    said = _said_by_names(ranks)
    limits = {name: _number(old or build, name) for name in _LIMITS}
    plugins = section(content, "plugin_config") or section(build, "plugin_config")
    adapted = section(build, "lora_config") if plugins.get("lora_plugin") else {}
    modules = adapted.get("lora_target_modules")
    return BuiltEngines(
        folder=folder,
        ranks=tuple(sorted(set(ranks.values()))),
        has_config=bool(old or model or build),
        tensor_parallel=_degree(mapping, "tp_size") or _degree(old, "tensor_parallel") or _degree(said, "tp"),
        pipeline_parallel=_degree(mapping, "pp_size") or _degree(old, "pipeline_parallel") or _degree(said, "pp"),
        dtype=str(dtype_name(text(model, "dtype") or text(old, "precision") or text(said, "dtype"))),
        quantization=text(section(model, "quantization"), "quant_algo"),
        version=text(content, "version"),
        architecture=text(model, "architecture"),
        compute_capability=_capability(content, old, build, artifacts.document(MANIFEST)),
        limits={name: limit for name, limit in limits.items() if limit},
        gathers_prompt_logits=(old or build).get("gather_context_logits") in (True, 1),
        lora_modules=tuple(map(str, modules)) if isinstance(modules, list) else (),
        max_lora_rank=_number(adapted, "max_lora_rank"),
        plugins=plugins,
        parameters=parameters,
    )


def triton_text(artifacts: ModelArtifacts) -> str:
    """``config.pbtxt`` without its comments; empty where there is none."""
    content = artifacts.documents.get(joined(artifacts.inner, "config.pbtxt"))
    return _COMMENT.sub("", content) if isinstance(content, str) else ""


def triton_parameters(artifacts: ModelArtifacts) -> dict[str, str]:
    """The parameters of ``config.pbtxt``, without those that a template left to be filled in."""
    found = {each["key"]: each["value"].strip() for each in _PARAMETER.finditer(triton_text(artifacts))}
    return {key: value for key, value in found.items() if value and not value.startswith("${")}


def joined(folder: str, name: str) -> str:
    """A name inside a folder, relative to what the folder is relative to."""
    return f"{folder}/{name}" if folder else name


def section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object inside another one; an empty one where there is none."""
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def text(content: Mapping[str, Any], name: str) -> str:
    """A text inside an object; empty where there is none."""
    value = content.get(name)
    return value if isinstance(value, str) else ""


def _engine_folder(artifacts: ModelArtifacts, wanted: str) -> str:
    """The folder of the engines: what config.pbtxt names if it is there, else the highest version, as Triton does."""
    if artifacts.format is not ArtifactFormat.TRITON_REPOSITORY:
        with_engines = {name.rpartition("/")[0] for name in artifacts.files if name.endswith(".engine")}
        return artifacts.inner if artifacts.inner in with_engines or not with_engines else min(with_engines)
    start = f"{artifacts.inner}/" if artifacts.inner else ""
    below = {name[len(start) :].partition("/")[0] for name in artifacts.files if name.startswith(start) and "/" in name}
    versions = sorted((each for each in below if each.isdecimal()), key=int)
    named = wanted.rstrip("/").rpartition("/")[2]
    last = named if named in versions else versions[-1] if versions else "1"
    return start + last


def _said_by_names(ranks: Mapping[str, int]) -> dict[str, Any]:
    for name in ranks:
        found = _NAME.match(name)
        if found:
            return {
                "dtype": found["dtype"] or "",
                "tp": int(found["tp"] or 0),
                "pp": int(found["pp"] or 0),
            }
    return {}


def _capability(content: Mapping[str, Any], *others: Mapping[str, Any]) -> str:
    for each in (content, *others):
        value = each.get("compute_capability")
        if isinstance(value, str | float) and re.fullmatch(r"\d{1,2}\.\d", str(value)):
            return str(value)
    return ""


def _degree(content: Mapping[str, Any], name: str) -> int:
    """A number of GPUs; one that no machine has says nothing."""
    number = _number(content, name)
    return number if number <= MAX_DEGREE else 0


def _number(content: Mapping[str, Any], name: str) -> int:
    value = content.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
