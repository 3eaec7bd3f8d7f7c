# SPDX-License-Identifier: Apache-2.0
"""Whether the weight files belong together: index, numbered names, and the tensors that each one holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lmi.api.artifacts import ArtifactFormat, ModelArtifacts
from lmi.api.errors import Problem, Severity, counted
from lmi.artifacts.documents import LFS_MARK, NotReadable
from lmi.artifacts.headers import headers_of
from lmi.artifacts.places.files import ModelFiles
from lmi.artifacts.places.names import escape_in
from lmi.artifacts.weights import SAFETENSORS, index_in_use, weight_map

_NUMBERED = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})(\.[a-z]+)")
_MAX_NAMED = 5
_PACKED = re.compile(r"\.(qweight|weight_packed|qzeros)$")
_PACKED_METHODS = ("gptq", "awq")
_QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


def shard_problems(artifacts: ModelArtifacts, files: ModelFiles) -> list[Problem]:
    """What is wrong between the files of a model that save_pretrained, or the like, wrote.

    Args:
        artifacts: what was detected.
        files: its files; indexes and headers are read.
    """
    index = index_in_use(files) if artifacts.format is ArtifactFormat.PRETRAINED else ""
    problems = list(_index_problems(files, index)) if index else list(_number_problems(artifacts, files))
    return problems + list(_twice_problems(artifacts, files)) + list(_compression_problems(artifacts, files))


def _index_problems(files: ModelFiles, index: str) -> Iterator[Problem]:
    path = files.at(index)
    try:
        places = weight_map(files, index)
    except NotReadable as error:
        if files.sizes[index] < 1024 and files.read_all([(index, 0, len(LFS_MARK))]) == [LFS_MARK]:
            yield _problem(
                "weights.lfs-pointer", f"{index} is a git-lfs pointer, not the file", "Run: git lfs pull", path
            )
            return
        yield _problem("weights.unreadable", f"{index} {error}", "Get the file again", path)
        return
    shards = sorted(set(places.values()))
    for name in shards:
        escape = escape_in(name)
        if escape:
            message = f"{index} names {name[:200]!r}, which {escape}"
            yield _problem("weights.unsafe-name", message, "Take the model from a source you trust", path)
        elif name not in files.sizes:
            message = f"{name[:200]} is in the index but not in the folder"
            yield _problem("weights.shard-missing", message, "Copy it again", files.at(name))
    promised: dict[str, set[str]] = {}
    for tensor, name in places.items():
        promised.setdefault(name, set()).add(tensor)
    there = [name for name in shards if name in files.sizes and name.endswith(SAFETENSORS)]
    for header in headers_of(files, there):
        lost = [] if header.code else sorted(promised[header.name] - header.tensors.keys())
        if lost:
            message = f"{header.name} lacks {counted(len(lost), 'tensor')} of the index: {_named(lost)}"
            hint = "Index and weights are of different models or versions; get both again"
            yield _problem("weights.tensor-missing", message, hint, files.at(header.name))


def _number_problems(artifacts: ModelArtifacts, files: ModelFiles) -> Iterator[Problem]:
    """Files that count themselves, and no index: which numbers are not there."""
    series: dict[tuple[str, int, int, str], set[int]] = {}
    for name in artifacts.weight_files:
        match = _NUMBERED.fullmatch(name)
        if match:
            start, number, n, suffix = match.groups()
            series.setdefault((start, int(n), len(n), suffix), set()).add(int(number))
    for (start, n, n_digits, suffix), numbers in series.items():
        n_missing = n - len(numbers & set(range(1, min(n, 100_000) + 1)))
        missing = [number for number in range(1, min(n, 100_000) + 1) if number not in numbers][:_MAX_NAMED]
        names = [f"{start}-{number:0{n_digits}}-of-{n:0{n_digits}}{suffix}" for number in missing]
        more = f" and {n_missing - len(names)} more" if n_missing > len(names) else ""
        if missing:
            message = f"there are {len(numbers)} of {n} files; not there: {', '.join(names)}{more}"
            yield _problem("weights.shard-missing", message, "Copy them again", files.at(names[0]))
        index = f"{start}{suffix}.index.json"
        if artifacts.format is ArtifactFormat.PRETRAINED and index not in files.sizes and n > 1:
            message = f"no {index} beside the {len(numbers)} numbered files"
            hint = "Copy it from where the model came from; many engines find no weights without it"
            yield _problem("weights.index-missing", message, hint, files.at(index), Severity.WARNING)


def _twice_problems(artifacts: ModelArtifacts, files: ModelFiles) -> Iterator[Problem]:
    names = [name for name in artifacts.weight_files if name.endswith(SAFETENSORS)]
    first: dict[str, str] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    for header in headers_of(files, names):
        for tensor in header.tensors:
            other = first.setdefault(tensor, header.name)
            if other != header.name:
                pairs.setdefault((other, header.name), []).append(tensor)
    for (one, other), tensors in pairs.items():
        message = f"{one} and {other} both hold {counted(len(tensors), 'tensor')}: {_named(sorted(tensors))}"
        hint = "They may be of different versions of the model; get the weights again"
        yield _problem("weights.tensor-twice", message, hint, files.at(other), Severity.WARNING)


def _compression_problems(artifacts: ModelArtifacts, files: ModelFiles) -> Iterator[Problem]:
    """Weights that are packed and a configuration that does not say how, or the other way round."""
    if artifacts.format is not ArtifactFormat.PRETRAINED:
        return
    headers = headers_of(files, [name for name in artifacts.weight_files if name.endswith(SAFETENSORS)])
    tensors = [tensor for header in headers for tensor in header.tensors]
    packed = next((tensor for tensor in tensors if _PACKED.search(tensor)), "")
    said = _quantization(artifacts)
    has_file = any(name in artifacts.files for name in _QUANTIZATION_FILES)
    if packed and not said and not has_file:
        message = f"the weights are packed, as {packed}, and config.json has no quantization_config"
        hint = "Copy config.json, or quantize_config.json, from where the weights came from"
        yield _problem("weights.quantization", message, hint, files.at("config.json"))
    method = str(said.get("quant_method") or "").lower()
    is_whole = artifacts.weights.n_linear_parameters > 0 and not any(header.code for header in headers)
    if method in _PACKED_METHODS and is_whole and not packed:
        message = f"config.json says quant_method={method}, and no tensor is packed that way"
        hint = "Config and weights are of different models; get both again"
        yield _problem("weights.quantization", message, hint, files.at("config.json"))


def _quantization(artifacts: ModelArtifacts) -> dict[str, object]:
    config = artifacts.config
    inner = config.get("text_config")
    for layer in (config, inner if isinstance(inner, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            value = layer.get(key)
            if isinstance(value, dict) and value:
                return value
    return {}


def _named(names: list[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"


def _problem(code: str, message: str, hint: str, path: str, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(code=code, message=message, hint=hint, path=path, severity=severity)
