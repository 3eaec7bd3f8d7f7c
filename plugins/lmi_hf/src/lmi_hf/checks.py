# SPDX-License-Identifier: Apache-2.0
"""Everything that would stop a model on this backend, found in json files and the list of installed packages."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from lmi.api import Accelerator, ArtifactFormat, ModelArtifacts, Problem, Target
from lmi_hf.config import DEVICE_MAPS, HFConfig

# What transformers needs to load a compressed checkpoint, by quantization_config.quant_method: any one of the modules.
_LIBRARIES = {
    "gptq": ("gptqmodel",),
    "awq": ("gptqmodel", "awq"),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "aqlm": ("aqlm",),
    "hqq": ("hqq",),
}
_NOT_GENERATING = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "ForMultipleChoice",
    "ForImageClassification",
)


def find_problems(artifacts: ModelArtifacts, config: HFConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Reads files, touches no device."""
    return [
        *_check_device(config, target),
        *_check_device_map(config, target),
        *_check_architecture(artifacts, config),
        *_check_context(artifacts, config),
        *_check_quantization(artifacts, config),
        *_check_adapter(artifacts, config),
    ]


def _check_device(config: HFConfig, target: Target) -> Iterator[Problem]:
    n = config.tensor_parallel_degree
    if n > 1 and target.accelerator is not Accelerator.CUDA:
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {n}; hf on {target.accelerator.value} takes 1",
            hint="Set option.tensor_parallel_degree=1; one copy uses all cores",
            fields=("tensor_parallel_degree",),
        )


def _check_device_map(config: HFConfig, target: Target) -> Iterator[Problem]:
    """On CUDA there is always one: the options', or that of the devices of this copy."""
    if target.accelerator is Accelerator.CUDA:
        return
    device_map, (name, value) = config.device_map, config.quantization_asked
    if device_map is not None and device_map not in DEVICE_MAPS and not device_map.startswith("cpu"):
        yield Problem(
            code="config.device-map",
            message=f"device_map is '{device_map}', but the model is meant for {target.accelerator.value}",
            hint="Leave option.device_map out",
            fields=("device_map",),
        )
    elif device_map is None and (config.quantization or "").startswith("bitsandbytes"):
        yield Problem(
            code="config.device-map",
            message=f"{name}={value} needs a device map, and {target.accelerator.value} has none of its own",
            hint="Serve the model on a GPU, set option.device_map=cpu to compress it on the processor all the same, or "
            f"remove option.{name}",
            fields=(name,),
        )


def _check_architecture(artifacts: ModelArtifacts, config: HFConfig) -> Iterator[Problem]:
    names = artifacts.architectures
    other = [name for name in names if name.endswith(_NOT_GENERATING)]
    if artifacts.config.get("is_encoder_decoder") or other:
        what = ", ".join(other or names) or artifacts.model_type
        yield Problem(
            code="model.task-not-served",
            message=f"{what} does not continue a text; hf serves text-generation with decoder-only models",
            hint="Use a causal language model",
            path=artifacts.folder,
        )
    if artifacts.config.get("auto_map") and not config.trust_remote_code and _is_unknown(artifacts.model_type):
        yield Problem(
            code="model.remote-code",
            message=f"model_type '{artifacts.model_type}' runs Python files that come with the model",
            hint="Read them, then set option.trust_remote_code=true",
            path=artifacts.folder,
            fields=("trust_remote_code",),
        )


def _check_context(artifacts: ModelArtifacts, config: HFConfig) -> Iterator[Problem]:
    asked, limit = config.max_model_len, artifacts.max_context_tokens
    if limit and asked > limit:
        yield Problem(
            code="config.max-model-len",
            message=f"max_model_len is {asked} tokens, the model takes {limit}",
            hint=f"Set option.max_model_len={limit} or leave it out",
            fields=("max_model_len",),
        )


def _check_quantization(artifacts: ModelArtifacts, config: HFConfig) -> Iterator[Problem]:
    asked, (name, value) = config.quantization, config.quantization_asked
    found = _method_of(artifacts)
    wanted = asked[:-1] if asked and asked.startswith("bitsandbytes") else asked
    if found and wanted and found != wanted:
        yield _conflict(name, f"{name} is {value}, but the checkpoint is compressed with {found}")
    elif asked in ("gptq", "awq") and not found:
        yield Problem(
            code="model.not-quantized",
            message=f"quantize is {asked}, but config.json has no quantization_config",
            hint="Use a checkpoint that was compressed so, or quantize=bitsandbytes4",
            path=artifacts.folder,
            fields=("quantize",),
        )
    method = found or wanted or ""
    modules = _LIBRARIES.get(method, ())
    if modules and _knows_engine() and not any(map(_is_installed, modules)):
        yield Problem(
            code="engine.library-missing",
            message=f"quantization {method} needs the Python package {' or '.join(modules)}, which is not installed",
            hint=f"pip install {modules[0]}",
            fields=() if found else (name,),
        )


def _check_adapter(artifacts: ModelArtifacts, config: HFConfig) -> Iterator[Problem]:
    is_adapter = artifacts.format is ArtifactFormat.ADAPTER
    if config.is_peft_model is not None and config.is_peft_model is not is_adapter:
        yield Problem(
            code="config.is-peft-model",
            message=f"is_peft_model is {str(config.is_peft_model).lower()}, the folder holds "
            + ("an adapter (adapter_config.json)" if is_adapter else "a whole model (config.json)"),
            hint="Leave option.is_peft_model out",
            path=artifacts.folder,
            fields=("is_peft_model",),
        )
    if not is_adapter:
        return
    if _knows_engine() and not _is_installed("peft"):
        yield Problem(
            code="engine.library-missing",
            message="an adapter needs the Python package peft, which is not installed",
            hint="pip install 'lmi-hf[peft]'",
        )
    start = base_of(artifacts)
    if start and (start.startswith(("/", ".")) and not _resolve(start, artifacts).is_dir()):
        yield Problem(
            code="adapter.base-missing",
            message=f"adapter_config.json names the base model {start}, which is not there",
            hint="Copy the base model there, or change base_model_name_or_path",
            path=artifacts.folder,
        )


def base_of(artifacts: ModelArtifacts) -> str:
    """The base model that an adapter names: a path or a name on the hub; "" where it names none."""
    try:
        content = json.loads((artifacts.path / "adapter_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get("base_model_name_or_path") or "") if isinstance(content, dict) else ""


def base_location(artifacts: ModelArtifacts) -> str:
    """Where an adapter's base model is loaded from: an absolute folder, or the name on the hub as it stands."""
    start = base_of(artifacts)
    folder = _resolve(start, artifacts)
    return str(folder) if folder.is_dir() else start


def _resolve(start: str, artifacts: ModelArtifacts) -> Path:
    return artifacts.path / start  # an absolute start stays as it is


def _method_of(artifacts: ModelArtifacts) -> str:
    given = artifacts.config.get("quantization_config")
    return str(given.get("quant_method") or "") if isinstance(given, dict) else ""


def _conflict(name: str, message: str) -> Problem:
    hint = f"Remove option.{name}: a compressed checkpoint says itself how it is read"
    return Problem(code="config.quantize", message=message, hint=hint, fields=(name,))


def _is_unknown(model_type: str) -> bool:
    """Whether the installed transformers has no code for a model type; False where that cannot be told."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return False
    return not (Path(spec.submodule_search_locations[0]) / "models" / model_type.replace("-", "_")).is_dir()


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _knows_engine() -> bool:
    """Whether the engine is installed here; else it runs under another Python, whose packages cannot be seen."""
    return _is_installed("torch") and _is_installed("transformers")
