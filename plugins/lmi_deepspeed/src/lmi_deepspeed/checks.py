# SPDX-License-Identifier: Apache-2.0
"""Everything that would stop a model on this backend, as its config.json and the options tell."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import (
    ArtifactFormat,
    ModelArtifacts,
    Problem,
    Severity,
    Target,
    merging_problems,
    quantization_of,
    shape_of,
    unserved_adapters,
)
from lmi_deepspeed.config import DEFAULT_MAX_TOKENS, DeepSpeedConfig
from lmi_deepspeed.ranked import check_ranked
from lmi_deepspeed.tasks import check_tasks
from lmi_hf import library

SMOOTHQUANT_TYPES = ("gpt2", "gpt_neo", "gptj", "gpt_neox", "bloom", "llama")
"""Model types that SmoothQuant is made for."""

UNSPLIT_TYPES = ("deberta", "flaubert", "fsmt", "gpt2", "led", "longformer", "xlm", "xlnet")
"""Model types that the automatic tensor parallelism refuses. Source: AutoTP.supported in DeepSpeed 0.19."""


BROUGHT_TYPES = (
    "RefinedWeb", "RefinedWebModel", "aquila", "baichuan", "chatglm", "deci", "internlm", "internlm2",
    "mixformer-sequential", "orion", "phi-msft", "qwen", "stablelm_epoch", "telechat", "xverse",
)  # fmt: skip
"""Model types that transformers never had: their code comes with the model. Those it has need no permission."""


def find_problems(artifacts: ModelArtifacts, config: DeepSpeedConfig, target: Target) -> list[Problem]:
    """List what would stop the model; empty means nothing was found. Opens no file, touches no device."""
    return [
        *_check_code(artifacts, config),
        *check_tasks(artifacts, config),
        *_check_degree(artifacts, config),
        *_check_context(artifacts, config),
        *_check_quantization(artifacts, config),
        *check_ranked(artifacts, config),
        *_check_configuration_file(artifacts, config),
        *_check_adapters(artifacts),
    ]


def _check_code(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> Iterator[Problem]:
    if artifacts.model_type in BROUGHT_TYPES and artifacts.config.get("auto_map") and not config.trust_remote_code:
        yield Problem(
            code="model.remote-code",
            message=f"model_type '{artifacts.model_type}' runs Python files that come with the model",
            hint="Read them, then set option.trust_remote_code=true",
            path=artifacts.folder,
            fields=("trust_remote_code",),
        )


def _check_degree(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> Iterator[Problem]:
    n, n_heads = config.tensor_parallel_degree, shape_of(artifacts).n_heads
    if 0 < n_heads < n:
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {n}, the model has {n_heads} attention heads to share",
            hint=f"Set option.tensor_parallel_degree={n_heads} or less",
            fields=("tensor_parallel_degree",),
        )
    if n > 1 and artifacts.model_type in UNSPLIT_TYPES:
        yield Problem(
            code="config.tensor-parallel",
            message=f"tensor_parallel_degree is {n}, and DeepSpeed does not split {artifacts.model_type} models",
            hint="Set option.tensor_parallel_degree=1",
            path=artifacts.folder,
            fields=("tensor_parallel_degree",),
        )


def _check_context(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> Iterator[Problem]:
    asked, limit = config.max_tokens, artifacts.max_context_tokens
    if limit and asked > limit and asked != DEFAULT_MAX_TOKENS:
        yield Problem(
            code="config.max-tokens",
            message=f"max_tokens is {asked} tokens, the model takes {limit}, and that holds",
            hint=f"Set option.max_tokens={limit} or less",
            severity=Severity.WARNING,
            fields=("max_tokens",),
        )


def _check_quantization(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> Iterator[Problem]:
    asked = config.quantization
    if asked is None:
        return
    found = str(quantization_of(artifacts).get("quant_method") or "").replace("unknown", "another method")
    if found:
        yield Problem(
            code="config.quantize",
            message=f"quantize is {asked}, but the checkpoint is already compressed with {found}",
            hint="Remove option.quantize, or use the checkpoint with whole weights",
            path=artifacts.folder,
            fields=("quantize",),
        )
    if library.knows_engine() and not library.is_installed("torchao"):
        yield Problem(
            code="engine.library-missing",
            message=f"quantize is {asked}, which torchao does, and this Python does not have it",
            hint="pip install 'lmi-deepspeed[quantize]'",
            fields=("quantize",),
        )
    if asked == "smoothquant" and artifacts.model_type and artifacts.model_type not in SMOOTHQUANT_TYPES:
        yield Problem(
            code="config.quantize",
            message=f"quantize is smoothquant, which is for {', '.join(SMOOTHQUANT_TYPES)}; the model is "
            f"{artifacts.model_type}",
            hint="Use option.quantize=dynamic_int8, or remove it",
            path=artifacts.folder,
            fields=("quantize",),
        )


def _check_configuration_file(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> Iterator[Problem]:
    """DeepSpeed's own configuration. An absolute path may be one of another machine, so it is not looked for."""
    given = config.deepspeed_config_path
    if given is None or given.startswith("/") or not artifacts.files:
        return
    if given not in artifacts.files:
        said, hint = "there is no such file in the model's folder", "Put it there, or correct the option"
    elif not isinstance(artifacts.documents.get(given), dict):
        said, hint = "it is not a json file with an object in it", "See DeepSpeed's inference configuration"
    else:
        return
    yield Problem(
        code="artifacts.file-missing" if given not in artifacts.files else "config.unreadable",
        message=f"deepspeed_config_path is {given}, and {said}",
        hint=hint,
        path=artifacts.folder,
        fields=("deepspeed_config_path",),
    )


def _check_adapters(artifacts: ModelArtifacts) -> list[Problem]:
    if artifacts.format is ArtifactFormat.ADAPTER:
        return merging_problems(artifacts)
    hint = "Merge one into the model (peft: merge_and_unload), or use a backend that has option.enable_lora"
    return unserved_adapters(artifacts, "deepspeed serves one model as it is", hint)
