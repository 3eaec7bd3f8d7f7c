# SPDX-License-Identifier: Apache-2.0
"""Everything that is wrong with a model's files, found by names, sizes, headers and small files; no weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lmi.api import ArtifactFormat, ModelArtifacts, Problem
from lmi.api.errors import Severity
from lmi.artifacts.documents import AGAIN, LFS_MARK, pull_hint, why_unread
from lmi.artifacts.foreign import GGUF, Foreign, foreign_kinds, gguf_origin
from lmi.artifacts.formats import ADAPTER_CONFIG, PIPELINE, config_name, detect, within
from lmi.artifacts.headers import headers_of
from lmi.artifacts.misplaced import misplaced_problem
from lmi.artifacts.pickles import pickle_problems
from lmi.artifacts.places.files import LocalFiles, ModelFiles
from lmi.artifacts.shards import MAX_NAMED, named, shard_problems
from lmi.artifacts.vocabulary import tokenizer_problems
from lmi.artifacts.weights import PICKLES, SAFETENSORS, SPLIT_FOLDER, index_in_use

_MAX_POINTER_BYTES = 1024
_SIDE_DOCUMENTS = ("generation_config.json", "special_tokens_map.json", "added_tokens.json")
"""Small files that a model may have, and that every reader of it trips over when they are broken."""

_HAS_MODEL_TYPE = (
    ArtifactFormat.PRETRAINED, ArtifactFormat.RANKED_CHECKPOINT, ArtifactFormat.TRITON_REPOSITORY,
    ArtifactFormat.NEURON, ArtifactFormat.NEURON_SPLIT,
)  # fmt: skip


def check(model: Path | ModelFiles | ModelArtifacts, files: ModelFiles | None = None) -> list[Problem]:
    """List everything that would stop these files from being loaded; an empty list means none was found.

    Args:
        model: a model folder, a model's files, or what ``detect`` said of them.
        files: the files that ``detect`` looked at; what it read of them is not read again. Without them a folder of
            this machine is listed anew, and of a place elsewhere only what ``detect`` said is judged.
    """
    if not isinstance(model, ModelArtifacts):
        files = LocalFiles(model) if isinstance(model, Path) else model
        model = detect(files)
    if model.format is ArtifactFormat.NONE:
        return []
    is_readable = files is not None or not model.is_elsewhere
    if files is None:
        files = _Listed(model) if model.is_elsewhere else LocalFiles(model.path)
    there = tuple(name for name in model.weight_files if name in files.sizes)
    return _problems(msgspec.structs.replace(model, weight_files=there), files, is_readable=is_readable)


def _problems(artifacts: ModelArtifacts, files: ModelFiles, *, is_readable: bool) -> list[Problem]:
    if PIPELINE in files.sizes and config_name(artifacts.format, artifacts.inner) not in files.sizes:
        return [_pipeline(artifacts, files)]
    if not files.sizes:
        hint = "Copy the model's files there; names that begin with a dot are not looked at"
        return [_problem("weights.missing", f"{files.place} is empty", hint, files.place)]
    misplaced = misplaced_problem(artifacts, files)
    if misplaced is not None and misplaced.code == "config.missing":
        return [misplaced]
    is_foreign = not artifacts.weight_files and misplaced is None
    foreign = foreign_kinds(files.sizes, exported=True) if is_foreign else {}
    if foreign and config_name(artifacts.format, artifacts.inner) not in files.sizes:
        return [_foreign(files, kind, names) for kind, names in foreign.items()]
    problems = list(_config_problems(artifacts, files))
    if is_readable:
        problems += shard_problems(artifacts, files)
    problems += [misplaced] if misplaced is not None else _presence_problems(artifacts, files, foreign)
    if is_readable:
        problems += _weight_problems(artifacts, files)
        problems += tokenizer_problems(artifacts, files)
    return problems + list(_code_problems(artifacts, files))


def _config_problems(artifacts: ModelArtifacts, files: ModelFiles) -> Iterator[Problem]:
    name = config_name(artifacts.format, artifacts.inner)
    path = files.at(name)
    content = artifacts.documents.get(name)
    if name not in files.sizes:
        yield _problem("config.missing", f"no {name}", "It comes with the model; copy it beside the weights", path)
    elif not isinstance(content, dict):
        yield _unreadable(artifacts, files, name)
    elif name == ADAPTER_CONFIG and not content.get("base_model_name_or_path"):
        yield _problem(
            "adapter.no-base", f"{name} names no base_model_name_or_path", "Say which model the adapter is for", path
        )
    elif artifacts.format in _HAS_MODEL_TYPE and not (artifacts.model_type or artifacts.architectures):
        yield _problem(
            "config.incomplete", f"{name} has neither model_type nor architectures", "Is it this model's file?", path
        )
    for other in (within(artifacts.inner, each) for each in _SIDE_DOCUMENTS):
        if other in files.sizes and not isinstance(artifacts.documents.get(other), dict):
            yield _unreadable(artifacts, files, other)


def _unreadable(artifacts: ModelArtifacts, files: ModelFiles, name: str) -> Problem:
    """Why a small file is not among the documents, or is of no use there."""
    path = files.at(name)
    if name in artifacts.documents or isinstance(files, _Listed):
        return _problem("config.unreadable", f"{name} is not a JSON object", AGAIN, path)
    if files.sizes[name] <= _MAX_POINTER_BYTES and files.read_all([(name, 0, len(LFS_MARK))]) == [LFS_MARK]:
        return _pointer("config.lfs-pointer", files, name)
    return _problem("config.unreadable", *why_unread(files, name), path)


def _presence_problems(
    artifacts: ModelArtifacts, files: ModelFiles, foreign: dict[Foreign, list[str]]
) -> Iterator[Problem]:
    is_plain = artifacts.format is ArtifactFormat.PRETRAINED
    is_compiled = artifacts.format is ArtifactFormat.NEURON and any(
        name.endswith((".neff", ".pt")) or name.endswith("/VERSION") for name in files.sizes
    )
    if artifacts.weight_files or (is_plain and index_in_use(files)) or is_compiled:
        return
    if foreign:
        yield from (_foreign(files, kind, names) for kind, names in foreign.items())
        return
    wanted = "adapter_model weights" if artifacts.format is ArtifactFormat.ADAPTER else "model weights"
    if artifacts.format in (ArtifactFormat.ENGINES, ArtifactFormat.TRITON_REPOSITORY):
        yield _problem("weights.missing", "no built engines (*.engine)", "Copy them here", files.at(artifacts.inner))
        return
    message = f"no {wanted}, neither .safetensors nor .bin"
    yield _problem("weights.missing", message, "Copy the weights here", files.place)


def _weight_problems(artifacts: ModelArtifacts, files: ModelFiles) -> Iterator[Problem]:
    small = [name for name in artifacts.weight_files if 0 < files.sizes[name] <= _MAX_POINTER_BYTES]
    starts = files.read_all([(name, 0, len(LFS_MARK)) for name in small])
    pointers = {name for name, data in zip(small, starts, strict=True) if data == LFS_MARK}
    names = [name for name in artifacts.weight_files if name not in pointers]
    found: dict[str, list[Problem]] = {}
    for header in headers_of(files, [name for name in names if name.endswith(SAFETENSORS)]):
        if header.code:
            hint = "Copy it again" if header.code == "weights.truncated" else AGAIN
            found[header.name] = [_problem(header.code, header.message, header.hint or hint, files.at(header.name))]
    pickles = [name for name in names if name.endswith(PICKLES) or _is_split(artifacts, name)]
    for problem in pickle_problems(files, pickles):
        found.setdefault(problem.path, []).append(problem)
    if len(pointers) > MAX_NAMED:
        message = f"{len(pointers)} weight files are git-lfs pointers, not the files: {named(sorted(pointers))}"
        yield _problem("weights.lfs-pointer", message, pull_hint(files), files.place)
    for name in artifacts.weight_files:
        if name in pointers and len(pointers) <= MAX_NAMED:
            yield _pointer("weights.lfs-pointer", files, name)
        elif files.sizes[name] == 0 and not name.endswith(SAFETENSORS) and name not in pickles:
            yield _problem("weights.truncated", f"{name} is empty", "Copy it again", files.at(name))
        yield from found.pop(name, [])
        yield from found.pop(files.at(name), [])
    for left in found.values():
        yield from left


def _is_split(artifacts: ModelArtifacts, name: str) -> bool:
    """Whether a file is a piece of split weights: written by PyTorch, and named as the tensor in it."""
    is_format = artifacts.format in (ArtifactFormat.NEURON, ArtifactFormat.NEURON_SPLIT)
    return is_format and f"{SPLIT_FOLDER}/" in name and not name.endswith(SAFETENSORS)


def _code_problems(artifacts: ModelArtifacts, files: ModelFiles) -> Iterator[Problem]:
    """Python files that the model's configuration names and that are not there."""
    for document in (within(artifacts.inner, "config.json"), within(artifacts.inner, "tokenizer_config.json")):
        named = artifacts.document(document).get("auto_map")
        modules = sorted(
            {module for value in named.values() for module in _modules(value)} if isinstance(named, dict) else []
        )
        for module in modules:
            name = within(artifacts.inner, f"{module}.py")
            if name not in files.sizes:
                message = f"{document} names code in {name}, which is not there"
                hint = "Copy it from where the model came from; it is needed with trust_remote_code"
                yield Problem(
                    code="model.code-missing", message=message, hint=hint, path=files.at(name),
                    severity=Severity.WARNING,
                )  # fmt: skip


def _modules(value: Any) -> set[str]:
    """Modules beside the model that an entry of auto_map names; ``org/name--module.Class`` is in another repository."""
    texts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
    return {text.rpartition(".")[0] for text in texts if "." in text and "--" not in text and "/" not in text}


def _pipeline(artifacts: ModelArtifacts, files: ModelFiles) -> Problem:
    kind = artifacts.document(PIPELINE).get("_class_name")
    what = f" ({kind})" if isinstance(kind, str) else ""
    message = f"{PIPELINE} says that this is a pipeline of diffusers{what}, not a language model"
    return _problem("model.not-a-language-model", message, "Serve it with diffusers", files.at(PIPELINE))


def _foreign(files: ModelFiles, kind: Foreign, names: list[str]) -> Problem:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    hint = kind.hint
    origin = gguf_origin(files, names[0]) if kind is GGUF and not isinstance(files, _Listed) else ""
    if origin:
        hint = f"Its metadata says that it was made from {origin}: serve that one"
    message = f"no model weights, neither .safetensors nor .bin; {shown} cannot be served: {kind.kind}"
    return _problem("weights.unsupported-kind", message, hint, files.at(names[0]))


def _pointer(code: str, files: ModelFiles, name: str) -> Problem:
    return _problem(code, f"{name} is a git-lfs pointer, not the file", pull_hint(files), files.at(name))


def _problem(code: str, message: str, hint: str, path: str) -> Problem:
    return Problem(code=code, message=message, hint=hint, path=path)


class _Listed(ModelFiles):
    """What is known of a place that cannot be read now."""

    def __init__(self, artifacts: ModelArtifacts) -> None:
        self.place = artifacts.folder
        self.sizes = artifacts.files

    def read(self, name: str, start: int = 0, n_bytes: int | None = None) -> bytes:
        raise OSError(f"{self.at(name)} is not at hand")
