# SPDX-License-Identifier: Apache-2.0
"""Whether the weight files belong together: index, numbered names, and the tensors that each one holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from lmi.api.artifacts import ArtifactFormat, ModelArtifacts
from lmi.api.errors import Problem, Severity, counted
from lmi.api.rules import quantization_of
from lmi.artifacts.documents import LFS_MARK, NotReadable, pull_hint
from lmi.artifacts.headers import headers_of
from lmi.artifacts.places.files import ModelFiles
from lmi.artifacts.places.names import escape_in
from lmi.artifacts.weights import SAFETENSORS, WHOLE_NAMES, index_in_use, weight_map

_NUMBERED = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})(\.[a-z]+)")
MAX_NAMED = 5
"""Files or tensors that one message names."""
_PACKED = re.compile(r"\.(qweight|weight_packed|qzeros)$")
_PACKED_METHODS = ("gptq", "awq")


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
            message = f"{index} is a git-lfs pointer, not the file"
            yield _problem("weights.lfs-pointer", message, pull_hint(files), path)
            return
        yield _problem("weights.unreadable", f"{index} {error}", error.hint or "Get the file again", path)
        return
    shards = sorted(set(places.values()))
    for name in shards:
        escape = escape_in(name)
        if escape:
            message = f"{index} names {name[:200]!r}, which {escape}"
            yield _problem("weights.unsafe-name", message, "Take the model from a source you trust", path)
    yield from _missing_shards(
        files, [name for name in shards if name not in files.sizes and not escape_in(name)], path
    )
    promised: dict[str, set[str]] = {}
    for tensor, name in places.items():
        promised.setdefault(name, set()).add(tensor)
    there = [name for name in shards if name in files.sizes and name.endswith(SAFETENSORS)]
    for header in headers_of(files, there):
        lost = [] if header.code else sorted(promised[header.name] - header.tensors.keys())
        if lost:
            message = f"{header.name} lacks {counted(len(lost), 'tensor')} of the index: {named(lost)}"
            hint = "Index and weights are of different models or versions; get both again"
            yield _problem("weights.tensor-missing", message, hint, files.at(header.name))


def _missing_shards(files: ModelFiles, names: list[str], index_path: str) -> Iterator[Problem]:
    """One problem for each of a few, one for all of many: a folder may lack 163 of them."""
    if len(names) > MAX_NAMED:
        message = f"{len(names)} files are in the index but not in the folder: {named(names)}"
        yield _problem("weights.shard-missing", message, "Copy them again", index_path)
        return
    for name in names:
        message = f"{name[:200]} is in the index but not in the folder"
        yield _problem("weights.shard-missing", message, "Copy it again", files.at(name))


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
        missing = [number for number in range(1, min(n, 100_000) + 1) if number not in numbers][:MAX_NAMED]
        names = [f"{start}-{number:0{n_digits}}-of-{n:0{n_digits}}{suffix}" for number in missing]
        more = f" and {n_missing - len(names)} more" if n_missing > len(names) else ""
        if missing:
            message = f"there are {len(numbers)} of {n} files; not there: {', '.join(names)}{more}"
            yield _problem("weights.shard-missing", message, "Copy them again", files.at(names[0]))
        index = f"{start}{suffix}.index.json"
        if artifacts.format is ArtifactFormat.PRETRAINED and index not in files.sizes:
            message = f"no {index} beside the {counted(len(numbers), 'numbered file')}"
            hint = "Copy it from where the model came from; many engines find no weights without it"
            yield _problem("weights.index-missing", message, hint, files.at(index), Severity.WARNING)
    if artifacts.format is ArtifactFormat.PRETRAINED and not series:
        yield from _name_problems(artifacts, files)


def _name_problems(artifacts: ModelArtifacts, files: ModelFiles) -> Iterator[Problem]:
    """Weights under a name that not every engine looks for."""
    odd = [name for name in artifacts.weight_files if name not in WHOLE_NAMES]
    if odd:
        usual = next(name for name in WHOLE_NAMES if name.endswith(SAFETENSORS) is odd[0].endswith(SAFETENSORS))
        message = f"the weights are in {named(odd)}, and there is no {usual}"
        hint = f"Rename it to {usual}" if len(odd) == 1 else "Save the model again with save_pretrained"
        hint += "; many engines find no weights under another name"
        yield _problem("weights.odd-name", message, hint, files.at(odd[0]), Severity.WARNING)


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
        message = f"{one} and {other} both hold {counted(len(tensors), 'tensor')}: {named(sorted(tensors))}"
        hint = "They may be of different versions of the model; get the weights again"
        yield _problem("weights.tensor-twice", message, hint, files.at(other), Severity.WARNING)


def _compression_problems(artifacts: ModelArtifacts, files: ModelFiles) -> Iterator[Problem]:
    """Weights that are packed and a configuration that does not say how, or the other way round."""
    if artifacts.format is not ArtifactFormat.PRETRAINED:
        return
    headers = headers_of(files, [name for name in artifacts.weight_files if name.endswith(SAFETENSORS)])
    tensors = [tensor for header in headers for tensor in header.tensors]
    packed = next((tensor for tensor in tensors if _PACKED.search(tensor)), "")
    said = quantization_of(artifacts)
    if packed and not said:
        message = f"the weights are packed, as {packed}, and config.json has no quantization_config"
        hint = "Copy config.json, or quantize_config.json, from where the weights came from"
        yield _problem("weights.quantization", message, hint, files.at("config.json"))
    own = quantization_of(msgspec.structs.replace(artifacts, documents={}))  # a file beside it may be of another time
    method = str(own.get("quant_method") or "")
    is_whole = artifacts.weights.n_linear_parameters > 0 and not any(header.code for header in headers)
    if method in _PACKED_METHODS and is_whole and not packed:
        message = f"config.json says quant_method={method}, and no tensor is packed that way"
        hint = "Config and weights are of different models; get both again"
        yield _problem("weights.quantization", message, hint, files.at("config.json"))


def named(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(name[:120] for name in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"


def _problem(code: str, message: str, hint: str, path: str, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(code=code, message=message, hint=hint, path=path, severity=severity)
