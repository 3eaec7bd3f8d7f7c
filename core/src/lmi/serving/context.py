# SPDX-License-Identifier: Apache-2.0
"""What routes know of the server: its models, metrics and the hooks of extensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

from lmi.api.errors import NotFoundError, NotReadyError, RequestError
from lmi.plugins import Plugins
from lmi.serving.metrics import Metrics
from lmi.serving.models import Model


class Context:
    """What routes know of the server.

    Args:
        plugins: for the hooks of extensions.
    """

    def __init__(self, plugins: Plugins) -> None:
        hooks = plugins.extension_hooks
        self.plugins = plugins
        self.models: dict[str, Model] = {}
        self.metrics = Metrics(self.models)
        self.stage = "check configuration"
        self.request_filters = plugins.in_order("lmi_filter_request")
        self.text_filters = plugins.in_order("lmi_filter_text")
        self.parses_request = _if_implemented(hooks.lmi_parse_request)
        self.formats_response = _if_implemented(hooks.lmi_format_response)

    def model(self, name: str | None = None) -> Model:
        """The model of that name; without a name, the only one.

        Raises:
            NotFoundError, RequestError, NotReadyError.
        """
        if not self.models:
            raise NotReadyError(
                "model.loading", f"no model is loaded yet ({self.stage})", "Wait until /ping answers 200"
            )
        if name is None:
            if len(self.models) > 1:
                known = ", ".join(self.models)
                raise RequestError("request.no-model", "several models are served", f"Name one of them: {known}")
            return next(iter(self.models.values()))
        if name not in self.models:
            raise NotFoundError(
                "model.not-found", f"there is no model {name!r}", f"Models here: {', '.join(self.models)}"
            )
        return self.models[name]


def _if_implemented(hook: pluggy.HookCaller) -> Callable[..., Any] | None:
    return hook if hook.get_hookimpls() else None
