# SPDX-License-Identifier: Apache-2.0
"""An endpoint: copies of a container, and which of them gets a request."""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmi.client import error_of
from lmi.sagemaker_local.container import Container, State
from lmi.sagemaker_local.failures import invalid, not_found, unavailable
from lmi.sagemaker_local.headers import ADAPTER, INFERENCE_COMPONENT, SESSION_ID, TARGET_MODEL, TARGET_VARIANT, VARIANT
from lmi.sagemaker_local.multi_model import MultiModel
from lmi.sagemaker_local.sessions import Sessions
from lmi.sagemaker_local.times import Times
from lmi.sagemaker_local.violations import Violations

_LOG = logging.getLogger(__name__)

BASE_COMPONENT = "base"
"""The inference component that is the model itself, on an endpoint with adapters."""


@dataclass(kw_only=True)
class Endpoint:
    """One endpoint.

    Args:
        name: its name.
        times: of the platform.
        violations: where those are kept.
        adapters: names of inference components that are adapters -> where their files are.
        models: of a multi-model endpoint; None for one model.
        copies: of its container; filled before it is used.
    """

    name: str
    times: Times
    violations: Violations
    adapters: Mapping[str, str] = field(default_factory=dict)
    models: MultiModel | None = None
    copies: Sequence[Container] = ()
    sessions: Sessions = field(default_factory=Sessions)
    is_deleting: bool = False
    _is_in_service: bool = False

    @property
    def status(self) -> str:
        """As DescribeEndpoint has it."""
        if self.is_deleting:
            return "Deleting"
        if self._is_in_service:
            return "InService"
        return "Failed" if any(copy.state is State.FAILED for copy in self.copies) else "Creating"

    def as_json(self) -> dict[str, Any]:
        """What GET /endpoints tells."""
        copies = [
            {"url": f"http://{copy.target.host}:{copy.target.port}", "state": copy.state.value, "pid": copy.pid,
             "failure": copy.failure}
            for copy in self.copies
        ]  # fmt: skip
        return {"EndpointName": self.name, "EndpointStatus": self.status, "copies": copies}

    async def became_healthy(self, copy: Container) -> None:
        """Do what the platform does with a copy before requests reach it."""
        if self.models is not None:
            await self.models.began(copy)
        for name, source in self.adapters.items():
            await self._register(copy, name, source)
        others = (each.state for each in self.copies if each is not copy)
        if not self._is_in_service and not {State.CREATING, State.FAILED} & set(others):
            self._is_in_service = True
            _LOG.info("endpoint %s is InService", self.name)

    # ---------------------------------------------------------------------------------------------------------- routing

    def checked(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What a call adds to the headers for the container.

        Args:
            headers: of the call.
        Raises:
            ApiError: the endpoint is not in service, or is not what the call takes it for.
        """
        if self.status != "InService":
            raise not_found(self.name)
        variant = headers.get(TARGET_VARIANT, VARIANT)
        if variant != VARIANT:
            raise invalid(f"Variant {variant} not found for Endpoint {self.name}. This endpoint has {VARIANT}.")
        is_targeted = TARGET_MODEL in headers
        if is_targeted and self.models is None:
            told = f"Endpoint {self.name} is not a multi-model endpoint and does not support target model header."
            raise invalid(told, "TARGET_MODEL_HEADER_NOT_SUPPORTED")
        if self.models is not None and not is_targeted:
            raise invalid("Request is missing a target model header.", "TARGET_MODEL_HEADER_MISSING")
        return self._of_component(headers.get(INFERENCE_COMPONENT))

    def copy_for(self, headers: Mapping[str, str]) -> Container:
        """The copy that gets a request: that of its session or model, else the one with the least to do.

        Args:
            headers: of the call.
        Raises:
            ApiError: none is healthy.
        """
        healthy = [copy for copy in self.copies if copy.state is State.HEALTHY]
        if not healthy:
            raise unavailable()
        of_session = self.sessions.container_of(headers.get(SESSION_ID, ""))
        if of_session in healthy:
            return of_session
        if target := headers.get(TARGET_MODEL):
            return healthy[zlib.crc32(target.encode()) % len(healthy)]
        return min(healthy, key=lambda copy: copy.n_running)

    def _of_component(self, component: str | None) -> dict[str, str]:
        if not self.adapters:
            if component is None:
                return {}
            raise invalid(
                f"Endpoint {self.name} does not have inference components. Please remove the Inference Component Name "
                "header and try again."
            )
        if component is None:
            told = (
                "Inference Component Name header is required for endpoints to which you plan to deploy inference "
                "components. Please include Inference Component Name header or consider using SageMaker models."
            )
            raise invalid(told, "INFERENCE_COMPONENT_NAME_MISSING")
        if component == BASE_COMPONENT:
            return {}
        if component not in self.adapters:
            known = ", ".join([BASE_COMPONENT, *self.adapters])
            raise invalid(f"Inference Component {component} not found on Endpoint {self.name}. There are: {known}.")
        return {ADAPTER: component}

    async def _register(self, copy: Container, name: str, source: str) -> None:
        body = json.dumps({"name": name, "src": source, "preload": True, "pin": False}).encode()
        headers = {"content-type": "application/json"}
        try:
            answer = await asyncio.wait_for(copy.ask("POST", "/adapters", body, headers), self.times.invocation)
            told = f"status {answer.status}: {error_of(answer.body, answer.status)[1][:200]}"
            is_wrong = answer.is_error
        except asyncio.TimeoutError:
            is_wrong, told = True, f"no answer in {self.times.invocation:g} s"
        except OSError as error:
            is_wrong, told = True, str(error)
        if is_wrong:
            self.violations.add("adapters.register", self.name, f"{copy.name}: POST /adapters for {name!r}: {told}")
        else:
            _LOG.info("%s has the adapter %s", copy.name, name)
