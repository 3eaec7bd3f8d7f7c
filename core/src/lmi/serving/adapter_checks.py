# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an adapter that is to be loaded into a running model, found before the engine is touched."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lmi.api import ModelArtifacts, Problem, Progress, RequestError, Severity
from lmi.api.adapters import CONFIG, FOLDER, WEIGHTS, adapter_problems, adapters_of
from lmi.api.errors import counted
from lmi.artifacts.documents import read_documents
from lmi.artifacts.headers import headers_of
from lmi.artifacts.lora import matrix_problems
from lmi.artifacts.places.files import ModelFiles, Only
from lmi.checking import validated
from lmi.loading import LoadPlan
from lmi.plugins import Plugins
from lmi.serving.adapter_sources import AdapterSource

_LOG = logging.getLogger(__name__)
_SAFETENSORS, _PICKLE = WEIGHTS
_LONGEST_NAME = 128
_UNFIT = re.compile(r"[/\\;,\x00-\x1f\x7f]|^\s|\s$|^\.{1,2}$|^$")


def adapter_name(name: object) -> str:
    """A name that a path, a header and a folder can carry.

    Raises:
        RequestError: it is none.
    """
    if not isinstance(name, str) or _UNFIT.search(name) or len(name) > _LONGEST_NAME:
        raise RequestError(
            "adapter.bad-name",
            f"name={name!r} cannot be the name of an adapter",
            f"Take 1 to {_LONGEST_NAME} characters without slashes, commas, semicolons and control characters",
        )
    return name


def fetch_checked(plugins: Plugins, plan: LoadPlan, name: str, source: AdapterSource, progress: Progress) -> Path:
    """An adapter's folder on this machine; what is wrong with it is found before it is fetched. Blocking.

    Args:
        plugins: with the model's backend, whose checks are asked.
        plan: of the model.
        name: of the adapter.
        source: where it is.
        progress: told how far the fetching is.
    Raises:
        RequestError: with every problem; or it is not there.
        NotReadyError: its place does not answer now.
    """
    place = source.place(progress)
    found = dict.fromkeys(_problems(plugins, plan, name, place))
    errors = [problem for problem in found if problem.severity is Severity.ERROR]
    if errors:
        raise RequestError(
            "adapter.invalid",
            f"{counted(len(errors), 'problem')} with adapter {name!r} in {place.place}; it was not loaded. "
            + " ".join(map(str, errors)),
        )
    for problem in found:
        _LOG.warning("%s", problem)
    return source.fetch(place, progress)


def _problems(plugins: Plugins, plan: LoadPlan, name: str, files: ModelFiles) -> Iterator[Problem]:
    if not files.sizes:
        message = f"adapter {name!r} has no files"
        yield Problem(code="adapter.incomplete", message=message, hint=f"Copy them to {files.place}", path=files.place)
        return
    beside = f"{FOLDER}/{name}/"
    artifacts = _with_adapter(plan.artifacts, beside, files)
    told = [*adapter_problems(artifacts), *validated(plugins, plan.info, artifacts, plan.config, plan.target)]
    if _SAFETENSORS in files.sizes:
        [header] = headers_of(files, [_SAFETENSORS])
        if header.code:
            hint = header.hint or "Get the file again"
            yield Problem(code=header.code, message=header.message, hint=hint, path=files.at(_SAFETENSORS))
        elif plan.files is not None:
            [adapter] = adapters_of(artifacts)
            told += matrix_problems(artifacts, plan.files, adapter, header.tensors)
    elif _PICKLE in files.sizes:
        yield Problem(
            code="adapter.pickle",
            message=f"adapter {name!r} has {_PICKLE} alone, and a running model takes no pickles",
            hint=f"Convert it to {_SAFETENSORS}",
            path=files.at(_PICKLE),
        )
    start = f"{artifacts.folder}/{beside}"
    for problem in told:  # what was said of the model at its start is not said again
        if problem.path.startswith(start):
            yield msgspec.structs.replace(problem, path=files.at(problem.path.removeprefix(start)))


def _with_adapter(model: ModelArtifacts, beside: str, files: ModelFiles) -> ModelArtifacts:
    """The model as if this adapter, and no other, lay in its folder."""
    sizes = {name: size for name, size in model.files.items() if not name.startswith(f"{FOLDER}/")}
    documents = {name: each for name, each in model.documents.items() if not name.startswith(f"{FOLDER}/")}
    sizes |= {beside + name: size for name, size in files.sizes.items()}
    only = Only(files, [CONFIG])
    documents |= {beside + name: each for name, each in read_documents(only).items()}
    return msgspec.structs.replace(model, files=sizes, documents=documents)
