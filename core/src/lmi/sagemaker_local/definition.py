# SPDX-License-Identifier: Apache-2.0
"""What a run has: endpoints, their containers, and how those are started."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmi import sagemaker_limits as limits
from lmi.client import Target, target_of
from lmi.sagemaker_local.container import Container
from lmi.sagemaker_local.endpoint import Endpoint
from lmi.sagemaker_local.headers import is_name
from lmi.sagemaker_local.multi_model import MultiModel
from lmi.sagemaker_local.process import Launch
from lmi.sagemaker_local.times import Times
from lmi.sagemaker_local.violations import Violations
from lmi.workers.mpi.variables import free_port


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What is asked for.

    Args:
        models: name of an endpoint -> model that ``lmi serve`` serves there; None for what its options say.
        options: ``KEY=VALUE`` for ``lmi serve``.
        urls: of containers that run already: copies of one endpoint.
        command: words that start a container.
        n_copies: how many of each are started.
        environ: of the containers.
        adapters: name of an inference component -> where its files are.
        multi_model: folder or ``s3://`` prefix of archives; empty for one model.
        folder: for everything that is made here: where models run, and archives are unpacked.
        unpack_to: where archives are unpacked; None for below ``folder``.
    """

    models: Mapping[str, str | None]
    options: Sequence[str] = ()
    urls: Sequence[str] = ()
    command: Sequence[str] = ()
    n_copies: int = 1
    environ: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    multi_model: str = ""
    folder: Path
    unpack_to: Path | None = None

    def endpoints(self, times: Times, violations: Violations) -> dict[str, Endpoint]:
        """Endpoints with their copies, none of which is started.

        Raises:
            ConfigError: a URL names no server.
        """
        made = {name: self._endpoint(name, model, times, violations) for name, model in self.models.items()}
        for name in made:
            for excess in _excess(self.environ):
                violations.add("environment.size", name, excess)
        return made

    def _endpoint(self, name: str, model: str | None, times: Times, violations: Violations) -> Endpoint:
        endpoint = Endpoint(name=name, times=times, violations=violations, adapters=self.adapters)
        if self.multi_model:
            endpoint.models = MultiModel(
                source=self.multi_model,
                folder=(self.unpack_to or self.folder / "models").absolute(),
                endpoint=name,
                times=times,
                violations=violations,
            )
        places: list[tuple[Target, Launch | None, int]] = [(target_of(url), None, 0) for url in self.urls]
        if not places:
            launch = self._launch(model)
            ports = [free_port() for _ in range(self.n_copies)]
            places = [(Target(host="127.0.0.1", port=port), launch, port) for port in ports]
        endpoint.copies = [
            Container(
                endpoint=name, name=f"{name}/{number}", target=target, launch=launch, port=port, times=times,
                violations=violations, on_healthy=endpoint.became_healthy,
            )
            for number, (target, launch, port) in enumerate(places)
        ]  # fmt: skip
        return endpoint

    def _launch(self, model: str | None) -> Launch:
        environ = dict(self.environ)
        if self.multi_model:
            environ.setdefault("SAGEMAKER_MULTI_MODEL", "true")
        if self.command:
            return Launch(command=self.command, environ=environ, folder=Path.cwd())
        words = [sys.executable, "-m", "lmi", "serve"]
        if model is not None:
            words.append(str(Path(model).absolute()) if Path(model).exists() else model)
        for option in self.options:
            words += ["-o", option]
        # A container has its own folder: what is only found from this one is not found there.
        return Launch(command=words, environ=environ, folder=self.folder)


def named(text: str, default: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``; the default name where the text is all value."""
    name, mark, value = text.partition("=")
    if mark and is_name(name) and not os.path.lexists(text):
        return name, value
    return default, text


def _excess(environ: Mapping[str, str]) -> list[str]:
    """What an endpoint could not be given of an environment."""
    found = []
    if len(environ) > limits.N_ENVIRONMENT_PAIRS:
        found.append(f"{len(environ)} variables; {limits.N_ENVIRONMENT_PAIRS} are taken")
    for name, value in environ.items():
        longest = max(len(name.encode()), len(value.encode()))
        if longest > limits.ENVIRONMENT_TEXT_BYTES:
            found.append(f"{name[:80]} has {longest} bytes; {limits.ENVIRONMENT_TEXT_BYTES} are taken")
    n_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in environ.items())
    if n_bytes > limits.ENVIRONMENT_BYTES:
        found.append(f"all variables have {n_bytes} bytes; {limits.ENVIRONMENT_BYTES} are taken")
    return found
