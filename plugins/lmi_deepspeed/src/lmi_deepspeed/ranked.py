# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in shards: the json that lists them, against the options and the files there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmi.api import ArtifactFormat, ModelArtifacts, Problem, Severity, dtype_name
from lmi_deepspeed.config import DeepSpeedConfig

WRITTEN_BY_LMI = "ds_inference_config.json"
"""What LMI and DeepSpeed call the json when they write it."""

_KEYS = ("type", "checkpoints", "version")
_TYPES = ("bloom", "ds_model", "megatron")


def check_ranked(artifacts: ModelArtifacts, config: DeepSpeedConfig) -> Iterator[Problem]:
    """Judge ``option.checkpoint``, and a folder that holds shards without it."""
    name = config.checkpoint
    if name is None:
        if artifacts.format is ArtifactFormat.RANKED_CHECKPOINT and config.deepspeed_config_path is None:
            yield _not_asked_for(artifacts)
        return
    if name.startswith("/") or not artifacts.files:
        return  # an absolute path may be one of another machine
    name = name.removeprefix("./")
    if name not in artifacts.files:
        yield _missing(artifacts, name)
    elif not isinstance(artifacts.documents.get(name), dict):
        yield _unusable(artifacts, name, "is not a json file with an object in it")
    else:
        yield from _check_content(artifacts, config, name, artifacts.document(name))


def lists_of_shards(artifacts: ModelArtifacts) -> list[str]:
    """Names of the files that describe shards; the one that LMI writes first."""
    found = [name for name in sorted(artifacts.documents) if _KEYS[1] in artifacts.document(name)]
    return sorted(found, key=lambda name: name != WRITTEN_BY_LMI)


def _not_asked_for(artifacts: ModelArtifacts) -> Problem:
    names = lists_of_shards(artifacts)
    said = names[0] if names else "its json file"
    return Problem(
        code="weights.not-asked-for",
        message=f"the weights are in shards, which {said} lists, and option.checkpoint does not name it",
        hint=f"Set option.checkpoint={said}",
        path=artifacts.folder,
        fields=("checkpoint",),
    )


def _missing(artifacts: ModelArtifacts, name: str) -> Problem:
    others = [each for each in lists_of_shards(artifacts) if each != name]
    hint = f"Set option.checkpoint={others[0]}" if others else "Put it there, or correct option.checkpoint"
    return Problem(
        code="artifacts.file-missing",
        message=f"checkpoint is {name}, and there is no such file in the model's folder",
        hint=hint,
        path=artifacts.folder,
        fields=("checkpoint",),
    )


def _check_content(
    artifacts: ModelArtifacts, config: DeepSpeedConfig, name: str, content: dict[str, Any]
) -> Iterator[Problem]:
    absent = [key for key in _KEYS if key not in content]
    if absent:
        yield _unusable(artifacts, name, f"has no {' and no '.join(absent)}")
        return
    kind = str(content["type"])
    if kind.lower() not in _TYPES:
        yield _unusable(artifacts, name, f"has the type {kind}; DeepSpeed takes BLOOM, ds_model and Megatron")
    shards = _shards(content["checkpoints"])
    if not shards:
        yield _unusable(artifacts, name, "lists no files under checkpoints")
        return
    yield from _check_shards(artifacts, name, content, shards)
    yield from _check_degree(artifacts, config, name, content, shards)
    yield from _check_dtype(artifacts, config, name, content)


def _shards(checkpoints: Any) -> dict[str, list[str]]:
    """Kind of shard -> files: those of each rank under ``tp``; ``non_tp`` is what every rank reads."""
    listed = checkpoints if isinstance(checkpoints, dict) else {"tp": checkpoints}
    found = {str(kind): [each for each in _list(names) if isinstance(each, str)] for kind, names in listed.items()}
    return {kind: names for kind, names in found.items() if names}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_shards(
    artifacts: ModelArtifacts, name: str, content: dict[str, Any], shards: dict[str, list[str]]
) -> Iterator[Problem]:
    base = str(content.get("base_dir") or "")
    is_outside = base.startswith("/") and base.rstrip("/") != artifacts.folder.rstrip("/")
    start = "" if not base or base.startswith("/") else base.strip("/").removeprefix("./") + "/"
    missing = [each for names in shards.values() for each in names if f"{start}{each}" not in artifacts.files]
    unsafe = [each for names in shards.values() for each in names if ".." in each.split("/")]
    if unsafe:
        yield _unusable(artifacts, name, f"names {unsafe[0]}, which leads out of the model's folder")
    elif missing and is_outside:
        yield Problem(
            code="weights.shard-missing",
            message=f"{name} has base_dir={base}, where its {len(missing)} shards are looked for",
            hint="Remove base_dir from it if they lie beside it",
            path=f"{artifacts.folder}/{name}",
            severity=Severity.WARNING,
        )
    for each in [] if is_outside or unsafe else missing:
        yield Problem(
            code="weights.shard-missing",
            message=f"{each} is in {name} but not in the folder",
            hint="Copy it again",
            path=f"{artifacts.folder}/{start}{each}",
        )


def _check_degree(
    artifacts: ModelArtifacts,
    config: DeepSpeedConfig,
    name: str,
    content: dict[str, Any],
    shards: dict[str, list[str]],
) -> Iterator[Problem]:
    given = content.get("mp_size", content.get("tp_size"))
    made_for = given if isinstance(given, int) and given > 0 else len(shards.get("tp", ()))
    degree = config.tensor_parallel_degree
    is_split = content.get("parallelization") == "tp" or isinstance(content["checkpoints"], dict)
    if not is_split or not made_for or made_for == degree:
        return
    yield Problem(
        code="config.tensor-parallel",
        message=f"tensor_parallel_degree is {degree}, and {name} was made for {made_for}",
        hint=f"Set option.tensor_parallel_degree={made_for}, or make the shards again for {degree}",
        path=f"{artifacts.folder}/{name}",
        fields=("tensor_parallel_degree",),
    )


def _check_dtype(
    artifacts: ModelArtifacts, config: DeepSpeedConfig, name: str, content: dict[str, Any]
) -> Iterator[Problem]:
    stored = dtype_name(content.get("dtype"))
    if stored == "int8":
        yield _unusable(artifacts, name, "has dtype int8, which needs quantize, and that loads no shards")
    elif stored in ("bf16", "fp16", "fp32") and config.dtype not in ("auto", stored):
        yield Problem(
            code="config.dtype",
            message=f"dtype is {config.dtype}, and {name} says that the shards are {stored}; they are converted",
            hint=f"Remove option.dtype, or make the shards again in {config.dtype}",
            path=f"{artifacts.folder}/{name}",
            severity=Severity.WARNING,
            fields=("dtype",),
        )


def _unusable(artifacts: ModelArtifacts, name: str, said: str) -> Problem:
    return Problem(
        code="weights.bad-checkpoint",
        message=f"{name} {said}",
        hint="Write the shards again with option.save_mp_checkpoint_path, or remove option.checkpoint",
        path=f"{artifacts.folder}/{name}",
        fields=("checkpoint",),
    )
