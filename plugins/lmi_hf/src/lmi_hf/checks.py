# SPDX-License-Identifier: Apache-2.0
"""Everything that would stop a model on this backend, found in json files and the list of installed packages."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import (
    Accelerator,
    ArtifactFormat,
    ModelArtifacts,
    Problem,
    Target,
    context_problems,
    merging_problems,
    quantization_of,
    task_of,
)
from lmi_hf import library
from lmi_hf.adapters import check_adapters
from lmi_hf.architectures import check_code, check_task
from lmi_hf.config import DEVICE_MAPS, HFConfig
from lmi_hf.needs import check_method, check_peft
from lmi_hf.tasks.checks import HEADS, check_decoder, check_head


def find_problems(artifacts: ModelArtifacts, config: HFConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Reads files, touches no device."""
    return [
        *_check_device(config, target),
        *_check_device_map(config, target),
        *_check_task(artifacts, config),
        *check_code(artifacts, trust_remote_code=config.trust_remote_code),
        *context_problems(artifacts, config.max_model_len),
        *_check_quantization(artifacts, config),
        *_check_adapter(artifacts, config),
    ]


def _check_task(artifacts: ModelArtifacts, config: HFConfig) -> Iterator[Problem]:
    if task_of(artifacts, config.task) in HEADS:
        yield from check_head(artifacts, config.task, "hf")
        return
    found = list(check_decoder(artifacts, config.task))
    yield from found or check_task(artifacts, "hf")


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


def _check_quantization(artifacts: ModelArtifacts, config: HFConfig) -> Iterator[Problem]:
    asked, (name, value) = config.quantization, config.quantization_asked
    found = _method_of(artifacts)
    yield from _check_method(artifacts, found)
    wanted = asked[:-1] if asked and asked.startswith("bitsandbytes") else asked
    if found and wanted and found != wanted:
        yield _conflict(name, f"{name} is {value}, but the checkpoint is compressed with {found}")
    elif asked in ("gptq", "awq") and not quantization_of(artifacts):
        yield Problem(
            code="model.not-quantized",
            message=f"quantize is {asked}, but config.json has no quantization_config",
            hint="Use a checkpoint that was compressed so, or quantize=bitsandbytes4",
            path=artifacts.folder,
            fields=("quantize",),
        )
    method = found or wanted or ""
    yield from check_method(method, *(() if found else (name,)))


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
    if is_adapter:
        yield from check_peft("an adapter")
        yield from merging_problems(artifacts)
    yield from check_adapters(artifacts, config)


def _check_method(artifacts: ModelArtifacts, found: str) -> Iterator[Problem]:
    """What transformers cannot read, or does not see."""
    beside = str(quantization_of(artifacts).get("quant_method") or "")
    known = library.quantization_methods()
    if beside and not found:
        yield Problem(
            code="model.quantization-not-served",
            message=f"the weights are compressed with {beside}, and config.json has no quantization_config, where "
            "transformers looks for it",
            hint="Use a checkpoint whose config.json has it, or option.rolling_batch=vllm",
            path=artifacts.folder,
        )
    elif found and known and not any(each.startswith(found) for each in known):
        yield Problem(
            code="model.quantization-not-served",
            message=f"the checkpoint is compressed with {found}; transformers {library.library_version()} does not "
            "read that",
            hint="Use a checkpoint compressed with gptq, awq or bitsandbytes, or whole weights",
            path=artifacts.folder,
        )


def _method_of(artifacts: ModelArtifacts) -> str:
    given = artifacts.config.get("quantization_config")
    return str(given.get("quant_method") or "") if isinstance(given, dict) else ""


def _conflict(name: str, message: str) -> Problem:
    hint = f"Remove option.{name}: a compressed checkpoint says itself how it is read"
    return Problem(code="config.quantize", message=message, hint=hint, fields=(name,))
