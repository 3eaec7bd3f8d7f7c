# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters: which models take them and in which matrices, and what would stop those beside a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from lmi.api import (
    Adapter,
    ModelArtifacts,
    Problem,
    RequestError,
    Severity,
    adapter_problem,
    adapter_problems,
    adapters_of,
    unserved_adapters,
)
from lmi.api.adapters import CONFIG, FOLDER, WEIGHTS, beyond_lora
from lmi_trtllm.adapter_options import DEFAULT_RANK
from lmi_trtllm.built import BuiltEngines, is_built, read_built
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import listed, said
from lmi_trtllm.paths import PYTORCH, TENSORRT, way_of

_ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_dense"}
_GATED = {"gate_proj": "mlp_h_to_4h", "up_proj": "mlp_gate", "down_proj": "mlp_4h_to_h"}
MODULES = {**_ATTENTION, **_GATED}
"""A matrix as PEFT names it -> as the library does."""

_MODULES_OF = {
    "LlamaForCausalLM": {PYTORCH: MODULES, TENSORRT: MODULES},
    "MistralForCausalLM": {PYTORCH: _ATTENTION, TENSORRT: MODULES},
    "Qwen2ForCausalLM": {PYTORCH: MODULES, TENSORRT: MODULES},
}
"""Architecture -> way -> matrices that an adapter may change.

On the pytorch way a model's own code hands adapters on to its layers, and one that does not answers without them and
says nothing; so only those are here whose code does, and only the matrices it hands them to. Source: the library's
``_torch/models``, its default names of matrices in ``lora_helper.py``, and ``use_lora`` of the models it builds.
"""

_PLAIN_SCALE = "scales of its own for some matrices (alpha_pattern)"


def adapted_modules(artifacts: ModelArtifacts, config: TrtllmConfig) -> tuple[str, ...]:
    """Matrices that an adapter may change, as PEFT names them; empty where the model takes no adapters.

    Args:
        artifacts: the model; where nothing says which one, all matrices count.
        config: says the way.
    """
    if is_built(artifacts):
        built = read_built(artifacts).lora_modules
        return tuple(name for name, own in MODULES.items() if own in built)
    if not artifacts.architectures:
        return tuple(MODULES)
    way = way_of(artifacts, config).name
    return next((tuple(_MODULES_OF[each][way]) for each in artifacts.architectures if each in _MODULES_OF), ())


def largest_rank(artifacts: ModelArtifacts, config: TrtllmConfig) -> int:
    """The largest rank that is served: what the option says, and of engines built before what they have."""
    built = read_built(artifacts).max_lora_rank if is_built(artifacts) else 0
    if not built:
        return config.max_lora_rank
    return built if config.max_lora_rank == DEFAULT_RANK else min(built, config.max_lora_rank)


def check_adapters(artifacts: ModelArtifacts, config: TrtllmConfig) -> list[Problem]:
    """Judge ``adapters/`` by the options of adapters, the model, and what the library's loader takes."""
    if not config.enable_lora:
        return unserved_adapters(artifacts, "enable_lora is false", "Set option.enable_lora=true", "enable_lora")
    found = [*_check_engines(artifacts, config)] if is_built(artifacts) else [*_check_model(artifacts, config)]
    if found:
        return found
    modules = adapted_modules(artifacts, config)
    return [
        *adapter_problems(artifacts, max_rank=largest_rank(artifacts, config)),
        *(each for adapter in adapters_of(artifacts) for each in _check_kind(artifacts, adapter)),
        *(each for adapter in adapters_of(artifacts) for each in _check_modules(artifacts, adapter, modules)),
    ]


def refuse_unfit(artifacts: ModelArtifacts, config: TrtllmConfig, name: str, path: str) -> None:
    """Raise what is wrong with an adapter's folder, before the library hears of it; no tensor is read.

    The library reads an adapter with the first request that names it, and one that it cannot read may end its process.

    Args:
        artifacts, config: of the model.
        name: of the adapter.
        path: its folder.
    Raises:
        RequestError: with every problem.
    """
    folder, beside = Path(path), f"{FOLDER}/{name}/"
    sizes = {each: (folder / each).stat().st_size for each in (CONFIG, *WEIGHTS) if (folder / each).is_file()}
    try:
        content = msgspec.json.decode((folder / CONFIG).read_bytes()) if CONFIG in sizes else None
    except ValueError:  # told as one that cannot be read
        content = None
    only = msgspec.structs.replace(
        artifacts,
        files={**_without_adapters(artifacts), **{beside + each: n_bytes for each, n_bytes in sizes.items()}},
        documents={**artifacts.documents, beside + CONFIG: content},
    )
    problems = check_adapters(only, config) if sizes else []
    errors = [str(each) for each in problems if each.severity is Severity.ERROR]
    if errors or not sizes:
        said_of_it = " ".join(errors) or "there is no such folder, or no adapter in it"
        raise RequestError(
            "adapter.not-loadable", f"TensorRT-LLM cannot load adapter {name!r} from {path}: {said_of_it}"
        )


def _without_adapters(artifacts: ModelArtifacts) -> dict[str, int]:
    return {name: n_bytes for name, n_bytes in artifacts.files.items() if not name.startswith(f"{FOLDER}/")}


def _check_model(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    if not adapted_modules(artifacts, config):
        yield Problem(
            code="adapter.not-supported",
            message=f"enable_lora is true, and trtllm serves adapters of {listed(tuple(_MODULES_OF))} alone; this "
            f"model is {', '.join(artifacts.architectures)}",
            hint="Remove option.enable_lora and serve a model the adapter was merged into",
            path=artifacts.folder,
            fields=("enable_lora",),
        )


def _check_engines(artifacts: ModelArtifacts, config: TrtllmConfig) -> Iterator[Problem]:
    engines = read_built(artifacts)
    if not adapted_modules(artifacts, config):
        yield _built_otherwise(
            artifacts,
            f"enable_lora=true, but the engines were built without adapters ({_lacking(engines)})",
            "Remove option.enable_lora, or build the engines anew: lmi compile with option.enable_lora=true, or "
            "trtllm-build --lora_plugin auto --lora_target_modules attn_q attn_k attn_v --max_lora_rank N",
            "enable_lora",
        )
    elif config.max_lora_rank != DEFAULT_RANK and 0 < engines.max_lora_rank < config.max_lora_rank:
        yield _built_otherwise(
            artifacts,
            f"the engines were built with max_lora_rank={engines.max_lora_rank}, {said(config, 'max_lora_rank')}",
            f"Set option.max_lora_rank={engines.max_lora_rank} or leave it out, or build the engines anew",
            "max_lora_rank",
        )


def _lacking(engines: BuiltEngines) -> str:
    return "their lora_plugin is off" if not engines.plugins.get("lora_plugin") else "no lora_target_modules known here"


def _built_otherwise(artifacts: ModelArtifacts, message: str, hint: str, field: str) -> Problem:
    return Problem(code="model.compiled-otherwise", message=message, hint=hint, path=artifacts.folder, fields=(field,))


def _check_kind(artifacts: ModelArtifacts, adapter: Adapter) -> Iterator[Problem]:
    reasons = [*beyond_lora(adapter), *([_PLAIN_SCALE] if adapter.config.get("alpha_pattern") else [])]
    for reason in reasons if adapter.config else ():
        yield adapter_problem(
            "adapter.not-supported",
            artifacts,
            adapter,
            f"has {reason}, which is not known to be taken by TensorRT-LLM",
            "Merge it into the model (peft: merge_and_unload), or train a plain LoRA adapter",
        )


def _check_modules(artifacts: ModelArtifacts, adapter: Adapter, modules: tuple[str, ...]) -> Iterator[Problem]:
    """Matrices that the library would leave as they are, without a word."""
    if not adapter.config or adapter.method != "LORA":
        return
    others = [each for each in adapter.target_modules if each.rpartition(".")[2] not in modules]
    hidden = not adapter.target_modules and set(modules) != set(MODULES)
    if others or hidden:
        what = f"changes {', '.join(others)}" if others else "names its matrices by a pattern"
        yield adapter_problem(
            "adapter.not-supported",
            artifacts,
            adapter,
            f"{what}, and TensorRT-LLM changes {listed(modules)} of this model alone",
            "Merge it into the model (peft: merge_and_unload), or train one for these matrices"
            + (", or set option.backend=tensorrt" if _is_short(modules, artifacts) else ""),
        )


def _is_short(modules: tuple[str, ...], artifacts: ModelArtifacts) -> bool:
    """Whether the other way would take more of this model's matrices."""
    ways = [_MODULES_OF[each] for each in artifacts.architectures if each in _MODULES_OF]
    return not is_built(artifacts) and any(len(way[TENSORRT]) > len(modules) for way in ways)
