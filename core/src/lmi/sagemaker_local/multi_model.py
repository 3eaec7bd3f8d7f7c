# SPDX-License-Identifier: Apache-2.0
"""A multi-model endpoint: models are unpacked and loaded when they are asked for, and make room for others."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import posixpath
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from lmi.api import ArtifactError
from lmi.client import Answer
from lmi.sagemaker_local.container import Container
from lmi.sagemaker_local.failures import ApiError, invalid, model_error, unavailable
from lmi.sagemaker_local.objects import fetch_archive
from lmi.sagemaker_local.times import Times
from lmi.sagemaker_local.violations import Violations

_LOG = logging.getLogger(__name__)
_OK, _NOT_FOUND, _CONFLICT, _NO_ROOM = 200, 404, 409, 507
_NOT_ALLOWED, _NOT_IMPLEMENTED = 405, 501


@dataclass(kw_only=True)
class _Loaded:
    """A model that a copy has, or will have."""

    target: str
    folder: Path
    loading: asyncio.Task[None]
    n_running: int = 0


@dataclass(kw_only=True)
class MultiModel:
    """Models of an endpoint.

    Args:
        source: folder or ``s3://`` prefix with the archives.
        folder: where they are unpacked, as below /opt/ml/models.
        endpoint: name of the endpoint.
        times: of the platform.
        violations: where those are kept.
    """

    source: str
    folder: Path
    endpoint: str
    times: Times
    violations: Violations
    _of: dict[str, dict[str, _Loaded]] = field(default_factory=dict)
    """Name of a copy -> opaque names of its models, least recently used first."""
    _folders: defaultdict[Path, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """Whoever loads or unloads the model in a folder has it for himself."""

    async def began(self, copy: Container) -> None:
        """A copy is new: it has no model, and can list them."""
        for loaded in self._of.pop(copy.name, {}).values():
            loaded.loading.cancel()
        try:
            answer = await asyncio.wait_for(copy.ask("GET", "/models"), self.times.invocation)
            wrong = "" if answer.status == _OK else f"status {answer.status}"
        except asyncio.TimeoutError:
            wrong = f"no answer in {self.times.invocation:g} s"
        except OSError as error:
            wrong = str(error)
        if wrong:
            self._broke("models.route", copy, f"GET /models: {wrong}")

    async def invoke(
        self, copy: Container, target: str, headers: dict[str, str], body: bytes, within_s: float
    ) -> Answer:
        """Send a request to a model, which is loaded before, and again if the container has lost it.

        Args:
            copy: that gets it.
            target: the archive, as the caller names it.
            headers, body: of the request.
            within_s: how long the answer of a loaded model may take.
        Raises:
            ApiError: the model is not there, not loaded in time, or does not fit.
            asyncio.TimeoutError, OSError: the container did not answer.
        """
        has_loaded_again = False
        while True:
            name, loaded = await self._loaded(copy, target)
            loaded.n_running += 1
            try:
                asked = copy.ask("POST", f"/models/{name}/invoke", body, headers)
                answer = await asyncio.wait_for(asked, within_s)
            finally:
                loaded.n_running -= 1
            if answer.status == _NOT_FOUND and not has_loaded_again:
                has_loaded_again = True
                self._of[copy.name].pop(name, None)
                continue
            if answer.status == _NO_ROOM and await self._make_room(copy, besides=name):
                continue
            return answer

    async def _loaded(self, copy: Container, target: str) -> tuple[str, _Loaded]:
        models = self._of.setdefault(copy.name, {})
        name = hashlib.sha256(target.encode()).hexdigest()[:32]
        loaded = models.pop(name, None)
        if loaded is None:
            folder = self.folder / copy.name.replace("/", "-") / name
            loading = asyncio.create_task(self._load_in_time(copy, name, folder, target))
            loaded = _Loaded(target=target, folder=folder, loading=loading)
            loading.add_done_callback(lambda task: _forget_failed(models, name, task))
        models[name] = loaded  # now the most recently used
        done, _ = await asyncio.wait({loaded.loading}, timeout=self.times.model_wait)
        if not done:
            told = f"Model {target} is not ready for inference yet: it is still being downloaded or loaded."
            raise ApiError("ModelNotReadyException", 429, told)
        if loaded.loading.cancelled():  # the container has ended meanwhile
            raise unavailable()
        await loaded.loading
        return name, loaded

    async def _load_in_time(self, copy: Container, name: str, folder: Path, target: str) -> None:
        try:
            await asyncio.wait_for(self._load(copy, name, folder, target), self.times.model_load)
        except asyncio.TimeoutError:
            told = f"{target} was not loaded in {self.times.model_load:g} s"
            self._broke("models.load-time", copy, told)
            raise ApiError("ModelNotReadyException", 429, f"Model {target} could not be loaded in time.") from None
        except OSError as error:
            raise ApiError("InternalFailure", 500, f"Model {target} could not be loaded: {error}") from error

    async def _load(self, copy: Container, name: str, folder: Path, target: str) -> None:
        async with self._folders[folder]:
            await self._unpack(folder, target)
            await self._register(copy, name, folder, target)

    async def _unpack(self, folder: Path, target: str) -> None:
        if target.startswith("/") or posixpath.normpath(f"/{target}") != f"/{target}":
            raise invalid(f"Target model {target} is no path below the models of endpoint {self.endpoint}.")
        try:
            # What is there is of a try that failed, or of a container that has ended.
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            await asyncio.to_thread(fetch_archive, self.source, target, folder / "model")
        except (ArtifactError, FileNotFoundError) as error:
            told = f"Failed to download model data(bucket: {self.source}, key: {target}). {error}"
            raise invalid(told, "MODEL_DATA_NOT_FOUND") from error

    async def _register(self, copy: Container, name: str, folder: Path, target: str) -> None:
        body = json.dumps({"model_name": name, "url": str(folder / "model")}).encode()
        while True:
            answer = await copy.ask("POST", "/models", body, {"content-type": "application/json"})
            if not answer.is_error or answer.status == _CONFLICT:
                _LOG.info("%s has loaded %s as %s", copy.name, target, name)
                return
            if answer.status in (_NOT_FOUND, _NOT_ALLOWED, _NOT_IMPLEMENTED):
                self._broke("models.route", copy, f"POST /models: status {answer.status}")
            if answer.status != _NO_ROOM or not await self._make_room(copy, besides=name):
                raise model_error(self.endpoint, answer.status, bytes(answer.body))

    async def _make_room(self, copy: Container, *, besides: str) -> bool:
        """Unload what was used the longest ago, without requests if there is such a model; whether there was any."""
        models = self._of.get(copy.name, {})
        known = [name for name, each in models.items() if name != besides and each.loading.done()]
        if not known:
            return False
        victim = min(known, key=lambda name: models[name].n_running > 0)
        loaded = models.pop(victim)
        _LOG.info("%s has no room: %s is unloaded", copy.name, loaded.target)
        async with self._folders[loaded.folder]:
            if wrong := await self._unload(copy, victim):
                self._broke("models.unload", copy, f"DELETE /models/{victim} ({loaded.target}): {wrong}")
            await asyncio.to_thread(shutil.rmtree, loaded.folder, ignore_errors=True)
        return True

    async def _unload(self, copy: Container, name: str) -> str:
        """Unload a model; why it is not, empty if it is."""
        try:
            answer = await asyncio.wait_for(copy.ask("DELETE", f"/models/{name}"), self.times.model_load)
        except asyncio.TimeoutError:
            return f"no answer in {self.times.model_load:g} s"
        except OSError as error:
            return str(error)
        return f"status {answer.status}" if answer.is_error else ""

    def _broke(self, rule: str, copy: Container, message: str) -> None:
        self.violations.add(rule, self.endpoint, f"{copy.name}: {message}", once=True)


def _forget_failed(models: dict[str, _Loaded], name: str, loading: asyncio.Task[None]) -> None:
    """Keep nothing of a model that could not be loaded, whether or not a request still waits for it."""
    has_failed = loading.cancelled() or loading.exception() is not None
    if has_failed and name in models and models[name].loading is loading:
        del models[name]
