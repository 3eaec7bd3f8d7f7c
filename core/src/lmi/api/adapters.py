# SPDX-License-Identifier: Apache-2.0
"""The LoRA adapters that lie beside a model, and what would stop them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec

from lmi.api.artifacts import ArtifactFormat, ModelArtifacts
from lmi.api.errors import Problem, Severity, counted
from lmi.api.modules import modules_of, strange_modules

FOLDER = "adapters"
"""Folder in a model's, whose folders are adapters, each by its name."""

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Ways to draw the first weights that leave the base model as it is."""

_BEYOND = {
    "use_dora": "DoRA",
    "lora_bias": "a bias of its own (lora_bias)",
    "alora_invocation_tokens": "invocation tokens (activated LoRA)",
    "layer_replication": "replicated layers (layer_replication)",
    "use_bdlora": "block-diagonal matrices (use_bdlora)",
    "use_qalora": "QALoRA",
    "arrow_config": "experts that are routed to (Arrow)",
    "kasa_config": "KaSA, which cuts the base weights",
    "monteclora_config": "sampled matrices (MonteCLoRA)",
    "trainable_token_indices": "tokens that were trained (trainable_token_indices)",
    "megatron_config": "layers of Megatron",
}
"""Settings of PEFT that make more of an adapter than plain LoRA, and what they mean."""

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*")
_IN_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_ON_HUB = re.compile(r"https?://[^/]+/([\w.-]+)/([\w.-]+)")


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter, as its files tell.

    Args:
        name: of its folder; empty for a folder that is an adapter itself.
        folder: relative to the model's, with a ``/`` at its end; empty for the same.
        config: ``adapter_config.json``; empty where there is none, or it cannot be read.
        weight_files: of it, relative to the model's folder.
    """

    name: str
    folder: str
    config: dict[str, Any]
    weight_files: tuple[str, ...]

    @property
    def method(self) -> str:
        """How it changes the model, as PEFT calls it: LORA, PREFIX_TUNING and so on."""
        return str(self.config.get("peft_type") or "LORA").upper()

    @property
    def rank(self) -> int:
        """The largest rank of its matrices; 0 where it does not say."""
        pattern = self.config.get("rank_pattern")
        found = [self.config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
        return max((each for each in found if isinstance(each, int) and not isinstance(each, bool)), default=0)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Names of the matrices it changes; empty where it says so by a pattern."""
        wanted = self.config.get("target_modules")
        return tuple(each for each in wanted if isinstance(each, str)) if isinstance(wanted, list) else ()

    @property
    def title(self) -> str:
        """How a message calls it."""
        return f"adapter '{self.name}'" if self.name else "the adapter"


def adapters_of(artifacts: ModelArtifacts) -> list[Adapter]:
    """The adapters in ``adapters/``, by name; of a folder that is an adapter, that one.

    Args:
        artifacts: as ``detect`` describes them; no file is opened.
    """
    if artifacts.format is ArtifactFormat.ADAPTER:
        return [_adapter(artifacts, "", "")]
    parts = [name.split("/") for name in artifacts.files]
    names = {part[1] for part in parts if len(part) > 2 and part[0] == FOLDER}
    return [_adapter(artifacts, name, f"{FOLDER}/{name}/") for name in sorted(names)]


def adapter_problems(
    artifacts: ModelArtifacts, *, max_rank: int = 0, ranks: Sequence[int] = (), field: str = "max_lora_rank"
) -> list[Problem]:
    """Everything about a model's adapters that would stop them, whichever library serves them.

    Args:
        artifacts: the model; its adapters lie in ``adapters/``.
        max_rank: largest rank that is served; 0 for no limit.
        ranks: values that ``field`` takes, in order; empty for any.
        field: the option that sets ``max_rank``.
    """
    return [
        problem
        for adapter in adapters_of(artifacts)
        for problem in (
            *_check_files(artifacts, adapter),
            *_check_rank(artifacts, adapter, max_rank, ranks, field),
            *_check_base(artifacts, adapter),
            *_check_modules(artifacts, adapter),
        )
    ]


def beyond_lora(adapter: Adapter, *, heads: Collection[str] = ()) -> Iterator[str]:
    """What an adapter has beyond plain LoRA, which loaders of engines do not take, as the end of a sentence.

    Args:
        adapter: one of ``adapters_of``.
        heads: whole matrices that the library takes with an adapter all the same.
    """
    config = adapter.config
    if adapter.method != "LORA":
        yield f"the method {adapter.method}"
        return
    yield from (meaning for name, meaning in _BEYOND.items() if config.get(name))
    if config.get("bias", "none") != "none":
        yield f"a trained bias (bias={config['bias']})"
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        yield f"a start that changes the base model (init_lora_weights={start})"
    saved = config.get("modules_to_save")
    whole = [str(each) for each in saved if each not in heads] if isinstance(saved, list) else []
    if whole:
        yield f"whole matrices (modules_to_save: {', '.join(whole)})"


def unserved_adapters(artifacts: ModelArtifacts, reason: str, hint: str, *fields: str) -> list[Problem]:
    """Say that adapters beside a model are left alone.

    Args:
        artifacts: the model.
        reason: why, as the end of a sentence: ``enable_lora is false``.
        hint: what to do.
        fields: options it is about.
    Returns:
        A warning; nothing where there are no adapters.
    """
    names = [adapter.name for adapter in adapters_of(artifacts) if adapter.name]
    if not names:
        return []
    message = f"{counted(len(names), 'adapter')} in {FOLDER}/ ({', '.join(names)}) cannot be asked for: {reason}"
    return [
        Problem(
            code="adapter.not-served",
            message=message,
            hint=hint,
            path=_at(artifacts, FOLDER),
            severity=Severity.WARNING,
            fields=fields,
        )
    ]


def adapter_problem(
    code: str,
    artifacts: ModelArtifacts,
    adapter: Adapter,
    said: str,
    hint: str,
    *fields: str,
    severity: Severity = Severity.ERROR,
) -> Problem:
    """A problem of one adapter, found in its configuration.

    Args:
        code: stable slug.
        artifacts: the model.
        adapter: one of ``adapters_of``.
        said: what is wrong, after the adapter's name: ``has rank 64``.
        hint: what to do.
        fields: options it is about.
        severity: errors stop the start.
    """
    path = _at(artifacts, f"{adapter.folder}{CONFIG}")
    return Problem(code=code, message=f"{adapter.title} {said}", hint=hint, path=path, severity=severity, fields=fields)


def _adapter(artifacts: ModelArtifacts, name: str, folder: str) -> Adapter:
    weights = tuple(folder + each for each in WEIGHTS if folder + each in artifacts.files)
    return Adapter(name=name, folder=folder, config=artifacts.document(folder + CONFIG), weight_files=weights)


def _check_files(artifacts: ModelArtifacts, adapter: Adapter) -> Iterator[Problem]:
    if adapter.name in (".", "..") or "\\" in adapter.name or "\0" in adapter.name:
        yield adapter_problem(
            "artifacts.unsafe-name", artifacts, adapter, "has a name that leads out of its folder", "Rename its folder"
        )
    if not adapter.name:
        return  # its files are judged as a model's
    if adapter.folder + CONFIG not in artifacts.files:
        yield adapter_problem(
            "adapter.incomplete",
            artifacts,
            adapter,
            f"has no {CONFIG}",
            f"Copy it beside the weights, or take the folder out of {FOLDER}/",
        )
    elif not adapter.config:
        yield adapter_problem(
            "adapter.incomplete", artifacts, adapter, f"has a {CONFIG} that cannot be read", "Get the file again"
        )
    if not adapter.weight_files:
        yield adapter_problem(
            "adapter.incomplete",
            artifacts,
            adapter,
            f"has no weights, neither {' nor '.join(WEIGHTS)}",
            f"Copy them into {adapter.folder}",
        )


def _check_rank(
    artifacts: ModelArtifacts, adapter: Adapter, max_rank: int, ranks: Sequence[int], field: str
) -> Iterator[Problem]:
    if not adapter.config or adapter.method != "LORA":
        return
    if adapter.rank <= 0:
        yield adapter_problem(
            "adapter.rank", artifacts, adapter, f"has the rank {adapter.config.get('r')}", "It is a number above 0"
        )
    elif max_rank and adapter.rank > max_rank:
        fitting = next((each for each in ranks if each >= adapter.rank), 0 if ranks else adapter.rank)
        hint = f"Set option.{field}={fitting}" if fitting else f"At most {max(ranks)} is served; use another adapter"
        yield adapter_problem(
            "adapter.rank", artifacts, adapter, f"has rank {adapter.rank}, and {field} is {max_rank}", hint, field
        )


def _check_base(artifacts: ModelArtifacts, adapter: Adapter) -> Iterator[Problem]:
    """Names alone are compared, and those only that are of the hub: a folder may have any."""
    base, model = str(adapter.config.get("base_model_name_or_path") or ""), _hub_id(artifacts)
    if not adapter.name or not model or not _HUB_ID.fullmatch(base) or _last(base) == _last(model):
        return
    yield adapter_problem(
        "adapter.other-base",
        artifacts,
        adapter,
        f"was made for {base}, and this model is {model}",
        "Leave it if they have the same weights, else use an adapter of this model",
        severity=Severity.WARNING,
    )


def _check_modules(artifacts: ModelArtifacts, adapter: Adapter) -> Iterator[Problem]:
    wanted = adapter.target_modules
    strange = strange_modules(artifacts.model_type, wanted) if adapter.name else ()
    if not strange:
        return
    known = ", ".join(modules_of(artifacts.model_type))
    yield adapter_problem(
        "adapter.unknown-modules",
        artifacts,
        adapter,
        f"changes {', '.join(strange)}, which {artifacts.model_type} models do not have (they have {known})",
        "Check that it is an adapter of this model",
        severity=Severity.ERROR if len(strange) == len(wanted) else Severity.WARNING,
    )


def _hub_id(artifacts: ModelArtifacts) -> str:
    """The model's name on the hub, as far as its files tell; empty where they do not."""
    for pattern in (_IN_CACHE, _ON_HUB):
        found = pattern.search(artifacts.folder)
        if found:
            return f"{found[1]}/{found[2]}"
    name = str(artifacts.config.get("_name_or_path") or "")
    return name if _HUB_ID.fullmatch(name) else ""


def _last(hub_id: str) -> str:
    return hub_id.rpartition("/")[2].lower()


def _at(artifacts: ModelArtifacts, name: str) -> str:
    return f"{artifacts.folder}/{name}"


__all__ = ["Adapter", "adapter_problem", "adapter_problems", "adapters_of", "beyond_lora", "unserved_adapters"]
