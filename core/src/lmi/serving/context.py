# SPDX-License-Identifier: Apache-2.0
"""What routes know of the server: its models, metrics and the hooks of extensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

from lmi.api.errors import NotFoundError, NotReadyError, RequestError
from lmi.config import Settings
from lmi.config.server import ServerOptions
from lmi.container import Container
from lmi.plugins import Plugins
from lmi.serving.emf import EmfLog
from lmi.serving.metrics import Metrics
from lmi.serving.models import Model
from lmi.serving.timeline import READY, of_this_process

if TYPE_CHECKING:
    from lmi.serving.streaming import Exchange

_TARGET_MODEL = "x-amzn-sagemaker-target-model"


class Context:
    """What routes know of the server.

    Args:
        plugins: for the hooks of extensions.
        options: what holds for all models.
        container: what SageMaker says of the container.
        settings: where the options were set.
    """

    def __init__(
        self,
        plugins: Plugins,
        options: ServerOptions | None = None,
        container: Container | None = None,
        settings: Settings | None = None,
    ) -> None:
        hooks = plugins.extension_hooks
        self.options = options or ServerOptions()
        self.container = container or Container()
        self.settings = settings or Settings()
        self.plugins = plugins
        self.models: dict[str, Model] = {}
        self.metrics = Metrics(self.models, _log_of(self.options, self.container))
        self.timeline = of_this_process("start server")
        self.stage = "check configuration"
        self.request_filters = plugins.in_order("lmi_filter_request")
        self.text_filters = plugins.in_order("lmi_filter_text")
        self.parses_request = _if_implemented(hooks.lmi_parse_request)
        self.formats_response = _if_implemented(hooks.lmi_format_response)

    @property
    def stage(self) -> str:
        """What the server's start is at; ``ready`` when it is over."""
        return self._stage

    @stage.setter
    def stage(self, stage: str) -> None:
        self._stage = stage
        self.timeline.enter(stage)

    def model(self, name: str | None = None, version: str | None = None) -> Model:
        """The model of that name; without a name, the only one.

        Args:
            name: as it was given to the server.
            version: as it was given to the server; None takes any.
        Raises:
            NotFoundError, RequestError, NotReadyError.
        """
        if not self.models and self.stage == READY:
            is_late = self.container.is_multi_model
            hint = "POST /models loads one" if is_late else "Name models in SERVING_LOAD_MODELS"
            raise NotFoundError("model.not-found", "this server has no model", hint)
        if not self.models:
            raise NotReadyError(
                "model.loading", f"no model is loaded yet ({self.stage})", "Wait until /ping answers 200"
            )
        if name is None:
            if len(self.models) > 1:
                known = ", ".join(self.models)
                raise RequestError(
                    "request.no-model",
                    f"several models are served ({known}), and the request names none",
                    "Name one: POST /predictions/NAME or POST /invocations?model_name=NAME (or TargetModel)",
                )
            return next(iter(self.models.values()))
        if name not in self.models:
            raise NotFoundError(
                "model.not-found", f"there is no model {name!r}", f"Models here: {', '.join(self.models)}"
            )
        model = self.models[name]
        if version is not None and version != model.plan.version:
            has = f"has version {model.plan.version!r}" if model.plan.version else "has no version"
            raise NotFoundError(
                "model.not-found", f"model {name!r} {has}, not {version!r}", f"Call /predictions/{name}"
            )
        return model

    def wanted_model(self, exchange: Exchange) -> str | None:
        """The model that a request names outside of its body; None where it names none.

        SageMaker's header counts where it can choose: an only model answers whatever it says, and multi-model endpoints
        name models by their path.
        """
        if (named := exchange.wanted_model) is not None:
            return named
        has_choice = len(self.models) > 1 and not self.container.is_multi_model
        return exchange.headers.get(_TARGET_MODEL) or None if has_choice else None

    def model_called(self, name: str | None) -> Model:
        """As ``model``, by its own name or by that of an adapter that only one model has."""
        if name is not None and name not in self.models:
            having = [model for model in self.models.values() if name in model.adapters]
            if len(having) == 1:
                return having[0]
        return self.model(name)


def _log_of(options: ServerOptions, container: Container) -> EmfLog | None:
    """Where metrics are written beside what Prometheus reads."""
    is_wanted = container.is_sagemaker if options.metrics_log == "auto" else options.metrics_log == "emf"
    return EmfLog(options.metrics_namespace, interval_s=options.metrics_log_interval) if is_wanted else None


def _if_implemented(hook: pluggy.HookCaller) -> Callable[..., Any] | None:
    return hook if hook.get_hookimpls() else None
