# SPDX-License-Identifier: Apache-2.0
"""How weights are compressed, and how options want them to be."""

from __future__ import annotations

from collections.abc import Iterator

from lmi.api import ModelArtifacts, Problem, quantization_of
from lmi_trtllm.built import joined, section, text
from lmi_trtllm.config import TrtllmConfig
from lmi_trtllm.conflicts import listed

_FAMILIES_OF_METHOD = {
    "smoothquant": ("llama", "mistral", "internlm", "baichuan"),
    "awq": ("llama", "mistral"),
}
"""quantize -> families the original compresses while it loads a model."""

_METHODS = {"fp8": ("fp8", "modelopt"), "awq": ("awq", "modelopt"), "gptq": ("gptq",)}
"""quantize -> names of the method in ``quantization_config`` of a compressed checkpoint."""

_WORD_OF_MODELOPT = {"fp8": "FP8", "awq": "AWQ"}
"""quantize -> what is part of the name of ModelOpt's method."""

_NOT_READ = (
    "aqlm", "bitnet", "bitsandbytes", "eetq", "gguf", "higgs", "hqq", "quanto", "quip", "spqr", "squeezellm", "torchao",
    "vptq",
)  # fmt: skip
"""Methods that TensorRT-LLM has no kernels for."""


def check_quantization(artifacts: ModelArtifacts, config: TrtllmConfig, family: str, kind: str) -> Iterator[Problem]:
    """Compare what the checkpoint is with what ``quantize`` wants.

    Args:
        artifacts: weights that are not built.
        config: the options.
        family: the model's.
        kind: what the model is, for messages.
    """
    found = method_of(artifacts)
    if found.startswith(_NOT_READ):
        yield Problem(
            code="model.quantization-not-served",
            message=f"the checkpoint is compressed with {found}, which TensorRT-LLM does not read",
            hint="Use the uncompressed checkpoint, or one compressed as fp8 or awq by ModelOpt",
            path=artifacts.folder,
        )
    elif config.quantize is not None:
        yield from _check_wanted(artifacts, config, config.quantize, found, family, kind)


def _check_wanted(
    artifacts: ModelArtifacts, config: TrtllmConfig, wanted: str, found: str, family: str, kind: str
) -> Iterator[Problem]:
    families = _FAMILIES_OF_METHOD.get(wanted, ())
    if found and not _fits(artifacts, wanted, found):
        yield _wrong_method(
            artifacts,
            f"quantize={wanted}, but the checkpoint is compressed with {modelopt_method(artifacts) or found}",
            "Remove option.quantize: a compressed checkpoint says itself how it is to be read",
        )
    elif wanted == "gptq":
        yield _wrong_method(
            artifacts,
            "quantize=gptq is for models that were built before; trtllm does not compress with gptq while loading",
            "Serve engines built from a gptq checkpoint, or set option.quantize=awq",
        )
    elif not found and families and family not in ("", *families):
        yield _wrong_method(
            artifacts,
            f"quantize={wanted} is for {listed(families)} only; this model is {kind}",
            "Remove option.quantize, or serve a checkpoint that is already compressed",
        )
    elif not found and config.backend == "pytorch" and wanted in ("awq", "fp8"):
        yield Problem(
            code="model.not-quantized",
            message=f"quantize={wanted} with backend=pytorch needs a compressed checkpoint, and config.json has no "
            "quantization_config",
            hint="Leave option.backend out, or use a checkpoint that was compressed so",
            path=artifacts.folder,
            fields=("backend", "quantize"),
        )


def method_of(artifacts: ModelArtifacts) -> str:
    """The method a checkpoint is compressed with, in lower case; empty where it is not."""
    method = str(quantization_of(artifacts).get("quant_method") or "").replace("unknown", "")
    return method or ("modelopt" if modelopt_method(artifacts) else "")


def modelopt_method(artifacts: ModelArtifacts) -> str:
    """What ModelOpt calls the method of its checkpoint, ``W4A16_AWQ``; it says so in one of two files."""
    own = artifacts.document(joined(artifacts.inner, "hf_quant_config.json"))
    return text(section(own, "quantization"), "quant_algo") or text(
        section(artifacts.config, "quantization_config"), "quant_algo"
    )


def _fits(artifacts: ModelArtifacts, wanted: str, found: str) -> bool:
    detail = modelopt_method(artifacts)
    if found == "modelopt" and detail and wanted in _WORD_OF_MODELOPT:
        return _WORD_OF_MODELOPT[wanted] in detail.upper()
    return found in _METHODS.get(wanted, ())


def _wrong_method(artifacts: ModelArtifacts, message: str, hint: str) -> Problem:
    return Problem(code="config.quantize", message=message, hint=hint, path=artifacts.folder, fields=("quantize",))
