# SPDX-License-Identifier: Apache-2.0
"""What options mean together. A rule is a function in ``RULES``; what depends on the model is in ``checks.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi.api import Conflict, Severity

if TYPE_CHECKING:
    from lmi_neuronx.config import NeuronxConfig

_OF_TNX = (
    "fuse_qkv",
    "collectives_layout",
    "on_device_embedding",
    "load_in_8bit",
    "quantize",
    "load_split_model",
    "compiled_graph_path",
    "context_length_estimate",
)
"""Options that only the loader tnx has: any of them decides for it. Source: LMI's Transformers-NeuronX guide."""

GRAPH_PATHS = ("compiled_graph_path", "draft_model_compiled_path")
"""Options that name a compiled graph."""

_MISSPELT = "djl_python.transformersneuronx"


def find_conflicts(config: NeuronxConfig) -> Iterator[Conflict]:
    """What every rule says."""
    for rule in RULES:
        yield from rule(config)


def options_of_tnx(config: NeuronxConfig) -> list[str]:
    """The options that are turned on and that only the loader tnx has."""
    return [name for name in _OF_TNX if is_turned_on(config, name)]


def is_turned_on(config: NeuronxConfig, name: str) -> bool:
    """Whether an option asks for something else than its default."""
    return bool(getattr(config, name) != type(config).model_fields[name].default)


def written(config: NeuronxConfig, *names: str) -> str:
    """``name=value`` of options, as a user writes them."""
    return ", ".join(f"{name}={_text(getattr(config, name))}" for name in names)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _batches_and_continuous_batching(config: NeuronxConfig) -> Iterator[Conflict]:
    if config.batch_size > 1 and not config.is_static:
        yield Conflict(
            fields=("batch_size", "rolling_batch"),
            message=f"batch_size={config.batch_size} compiles whole batches, and rolling_batch={config.rolling_batch} "
            "asks for continuous batching",
            hint="Set option.rolling_batch=disable, or replace batch_size by "
            f"option.max_rolling_batch_size={config.batch_size}",
        )


def _strategy_without_continuous_batching(config: NeuronxConfig) -> Iterator[Conflict]:
    if config.rolling_batch_strategy and config.is_static:
        yield Conflict(
            fields=("rolling_batch_strategy", "rolling_batch", "batch_size"),
            message=f"{written(config, 'rolling_batch_strategy')} does nothing: continuous batching is off",
            hint="Remove option.rolling_batch_strategy",
            severity=Severity.WARNING,
            code="config.no-effect",
        )


def _estimates_within_positions(config: NeuronxConfig) -> Iterator[Conflict]:
    estimates = config.context_length_estimate or ()
    if estimates and max(estimates) > config.n_positions:
        yield Conflict(
            fields=("context_length_estimate", "n_positions"),
            message=f"context_length_estimate has {max(estimates)} tokens, n_positions is {config.n_positions}",
            hint=f"Raise option.n_positions to {max(estimates)} or more, or remove the longer prompts",
        )


def _estimates_of_continuous_batching(config: NeuronxConfig) -> Iterator[Conflict]:
    is_asked = config.rolling_batch_strategy == "continuous_batching" and not config.is_static
    if is_asked and not estimate_suits_continuous_batching(config):
        yield Conflict(
            fields=("context_length_estimate", "n_positions", "rolling_batch_strategy"),
            message=estimate_complaint(config),
            hint=estimate_hint(config),
        )


def estimate_suits_continuous_batching(config: NeuronxConfig) -> bool:
    """Continuous batching compiles one prompt length, and it is n_positions."""
    return config.context_length_estimate in (None, (config.n_positions,))


def estimate_complaint(config: NeuronxConfig) -> str:
    return (
        f"{written(config, 'context_length_estimate')}, but continuous batching compiles prompts of "
        f"{written(config, 'n_positions')} only"
    )


def estimate_hint(config: NeuronxConfig) -> str:
    return f"Remove option.context_length_estimate, or set it to {config.n_positions}"


def _compiled_graph_is_there(config: NeuronxConfig) -> Iterator[Conflict]:
    """A relative path starts at the model's folder, so graph_paths.py looks for it; a prefix is not listed."""
    for name in GRAPH_PATHS:
        path = getattr(config, name)
        complaint = _graph_complaint(path) if path else ""
        if complaint:
            yield Conflict(fields=(name,), message=f"{name}={path} {complaint}", hint=missing_graph_hint())


def _graph_complaint(path: str) -> str:
    if path.endswith((".neff", ".zip", ".tar", ".tar.gz", ".tgz")):
        return "is one file; it takes the folder, or the prefix, that holds the compiled graph"
    if "://" in path or not Path(path).is_absolute():
        return ""
    if not Path(path).is_dir():
        return "is no folder, and no s3:// prefix"
    return "" if _has_graph(Path(path)) else "holds no compiled graph: no .neff file is in it"


def _has_graph(folder: Path) -> bool:
    """Whether graphs lie in a folder, or a compiler's cache, which has two folders below each other."""
    try:
        return any(next(folder.glob(each), None) for each in ("*.neff", "*/*.neff", "*/*/*.neff", "neuronxcc-*"))
    except OSError:
        return True  # what cannot be read here is told when it is loaded


def missing_graph_hint() -> str:
    return "Put the compiled graph there, name an s3:// prefix, or remove the option and the model is compiled at start"


def _loader_and_schema(config: NeuronxConfig) -> Iterator[Conflict]:
    forced = options_of_tnx(config)
    if config.partition_schema == "optimum" and (forced or config.model_loader == "tnx"):
        reasons = tuple(forced) or ("model_loader",)
        yield Conflict(
            fields=("partition_schema", *reasons),
            message=f"partition_schema=optimum is written by the loader optimum, and {written(config, *reasons)} "
            "means the loader tnx",
            hint=f"Set option.partition_schema=legacy, or remove {', '.join(f'option.{each}' for each in reasons)}",
        )
    elif forced and config.model_loader == "optimum":
        yield Conflict(
            fields=("model_loader", *forced),
            message=f"model_loader=optimum is left out: {written(config, *forced)} is of the loader tnx alone",
            hint="Set option.model_loader=tnx or remove it",
            severity=Severity.WARNING,
            code="config.no-effect",
        )
    elif config.model_loader == "optimum" and config.partition_schema == "compile_only":
        yield Conflict(
            fields=("partition_schema", "model_loader"),
            message="partition_schema=compile_only is written by the loader tnx, and model_loader is optimum",
            hint="Set option.partition_schema=optimum or option.model_loader=tnx",
        )
    elif config.model_loader == "optimum" and config.partition_schema == "legacy":
        yield from _default_schema_of_optimum(config)


def _default_schema_of_optimum(config: NeuronxConfig) -> Iterator[Conflict]:
    """The default said aloud stops nothing, and optimum writes its own form all the same."""
    if "partition_schema" in config.model_fields_set:
        yield Conflict(
            fields=("partition_schema", "model_loader"),
            message="partition_schema=legacy is of the loader tnx; model_loader=optimum writes the schema optimum",
            hint="Set option.partition_schema=optimum or option.model_loader=tnx",
            severity=Severity.WARNING,
            code="config.no-effect",
        )


def _speculation_needs_a_draft_model(config: NeuronxConfig) -> Iterator[Conflict]:
    if config.speculative_draft_model:
        yield Conflict(
            fields=("speculative_draft_model",),
            message=f"{written(config, 'speculative_draft_model')}: neuronx does not guess with a draft model yet",
            hint="Remove option.speculative_draft_model; lmi-dist and deepspeed take one, on GPUs",
        )
        return
    for name in ("draft_model_compiled_path", "speculative_length"):
        if is_turned_on(config, name):
            yield Conflict(
                fields=(name,),
                message=f"{written(config, name)} does nothing without speculative_draft_model",
                hint=f"Set option.speculative_draft_model, or remove option.{name}",
                severity=Severity.WARNING,
                code="config.no-effect",
            )


def _values_of_requests(config: NeuronxConfig) -> Iterator[Conflict]:
    """The core's scheduler gives a stepper ids, not what each request wants to be sampled with."""
    if config.on_device_generation and config.on_device_generation.get("dynamic"):
        yield Conflict(
            fields=("on_device_generation",),
            message="on_device_generation has dynamic=true, which does nothing: the compiled values hold for every "
            "request",
            hint="Remove dynamic; without on_device_generation every request is sampled as it asks",
            severity=Severity.WARNING,
            code="config.no-effect",
        )


def _pictures(config: NeuronxConfig) -> Iterator[Conflict]:
    for name in ("height", "width", "num_images_per_prompt"):
        if is_turned_on(config, name):
            yield Conflict(
                fields=(name,),
                message=f"{written(config, name)} does nothing: it is of diffusion models, which are not served",
                hint=f"Remove option.{name}",
                severity=Severity.WARNING,
                code="config.no-effect",
            )
    if config.use_auth_token:
        yield Conflict(
            fields=("use_auth_token",),
            message="use_auth_token does nothing for language models",
            hint="Set the variable HF_TOKEN and remove option.use_auth_token",
            severity=Severity.WARNING,
            code="config.no-effect",
        )


def _misspelt_entry_point(config: NeuronxConfig) -> Iterator[Conflict]:
    if (config.entryPoint or "").lower() == _MISSPELT:
        yield Conflict(
            fields=("entryPoint",),
            message=f"entryPoint={_MISSPELT} is a misspelling of djl_python.transformers_neuronx, and taken for it",
            hint="Write option.entryPoint=djl_python.transformers_neuronx",
            severity=Severity.WARNING,
            code="config.deprecated",
        )


RULES: tuple[Callable[[NeuronxConfig], Iterator[Conflict]], ...] = (
    _batches_and_continuous_batching,
    _strategy_without_continuous_batching,
    _estimates_within_positions,
    _estimates_of_continuous_batching,
    _compiled_graph_is_there,
    _loader_and_schema,
    _speculation_needs_a_draft_model,
    _values_of_requests,
    _pictures,
    _misspelt_entry_point,
)
