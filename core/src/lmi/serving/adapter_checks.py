# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an adapter that is to be loaded into a running model, found before the engine is touched."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lmi.api import ModelArtifacts, Problem, RequestError, Severity
from lmi.api.adapters import CONFIG, FOLDER, WEIGHTS, adapter_problems
from lmi.api.errors import counted
from lmi.artifacts.documents import read_documents
from lmi.artifacts.headers import headers_of
from lmi.artifacts.places.files import LocalFiles
from lmi.checking import validated
from lmi.loading import LoadPlan
from lmi.plugins import Plugins

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


def adapter_folder(src: object, artifacts: ModelArtifacts) -> Path:
    """The folder that ``src`` names; whether it is there is not looked at.

    Args:
        src: absolute, or relative to the model's folder.
        artifacts: the model.
    Raises:
        RequestError: it names no folder of this machine.
    """
    if not isinstance(src, str) or not src or "\0" in src:
        raise RequestError("adapter.bad-source", f"src={src!r} names no folder", "Give the folder of the adapter")
    if "://" in src and not src.startswith("file:///"):
        raise RequestError(
            "adapter.bad-source",
            f"src={src!r} is not on the server's machine; adapters are loaded from its folders only",
            "Copy the adapter there, and give the folder",
        )
    path = Path(src.removeprefix("file://"))
    if not path.is_absolute() and not artifacts.folder:
        raise RequestError(
            "adapter.bad-source", f"src={src!r} is relative, and this model has no folder", "Give an absolute path"
        )
    return Path(artifacts.folder) / path


def refuse_wrong(plugins: Plugins, plan: LoadPlan, name: str, folder: Path) -> None:
    """Raise everything known to be wrong with an adapter; no tensor of it is read.

    Args:
        plugins: with the model's backend, whose checks are asked.
        plan: of the model.
        name: of the adapter.
        folder: of the adapter.
    Raises:
        RequestError: with every problem.
    """
    if not folder.is_dir():
        raise RequestError("adapter.bad-source", f"there is no folder {folder}", "Copy the adapter there first")
    found = dict.fromkeys(_problems(plugins, plan, name, folder))
    errors = [problem for problem in found if problem.severity is Severity.ERROR]
    if errors:
        raise RequestError(
            "adapter.invalid",
            f"{counted(len(errors), 'problem')} with adapter {name!r} in {folder}; it was not loaded. "
            + " ".join(map(str, errors)),
        )
    for problem in found:
        _LOG.warning("%s", problem)


def _problems(plugins: Plugins, plan: LoadPlan, name: str, folder: Path) -> Iterator[Problem]:
    files = LocalFiles(folder)
    if not files.sizes:
        message = f"adapter {name!r} has no files"
        yield Problem(code="adapter.incomplete", message=message, hint=f"Copy them to {folder}", path=files.place)
        return
    beside = f"{FOLDER}/{name}/"
    artifacts = _with_adapter(plan.artifacts, beside, files)
    told = [*adapter_problems(artifacts), *validated(plugins, plan.info, artifacts, plan.config, plan.target)]
    start = f"{artifacts.folder}/{beside}"
    for problem in told:  # what was said of the model at its start is not said again
        if problem.path.startswith(start):
            yield msgspec.structs.replace(problem, path=f"{files.place}/{problem.path.removeprefix(start)}")
    if _SAFETENSORS not in files.sizes and _PICKLE in files.sizes:
        yield Problem(
            code="adapter.pickle",
            message=f"adapter {name!r} has {_PICKLE} alone, and a running model takes no pickles",
            hint=f"Convert it to {_SAFETENSORS}",
            path=files.at(_PICKLE),
        )
    elif _SAFETENSORS in files.sizes:
        [header] = headers_of(files, [_SAFETENSORS])
        if header.code:
            hint = header.hint or "Get the file again"
            yield Problem(code=header.code, message=header.message, hint=hint, path=files.at(_SAFETENSORS))


def _with_adapter(model: ModelArtifacts, beside: str, files: LocalFiles) -> ModelArtifacts:
    """The model as if this adapter, and no other, lay in its folder."""
    sizes = {name: size for name, size in model.files.items() if not name.startswith(f"{FOLDER}/")}
    documents = {name: each for name, each in model.documents.items() if not name.startswith(f"{FOLDER}/")}
    sizes |= {beside + name: size for name, size in files.sizes.items()}
    documents |= {beside + name: each for name, each in read_documents(files).items() if name == CONFIG}
    return msgspec.structs.replace(model, files=sizes, documents=documents)
