# SPDX-License-Identifier: Apache-2.0
"""A model.py with hooks or an output formatter: an extension of its model alone."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmi.api import BackendConfig, ModelArtifacts, PluginError, Problem, Target
from lmi.custom.formatter import Formatter
from lmi.custom.importing import function_of, import_file
from lmi.custom.model_file import ModelFile
from lmi.plugins import Plugins


class ModelExtension:
    """What a model's own file does in the server, in a registry of its own: no other model's requests reach it.

    Args:
        file: of kind EXTENSION; it is imported.
    Raises:
        EngineLoadError: it cannot be imported.
        PluginError: a hook's parameters do not fit.
    """

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        module = import_extension(file)
        self._plugins = Plugins([], os.environ)
        self._plugins.register(module, file.name)
        self.request_filters = self._plugins.in_order("lmi_filter_request")
        self.text_filters = self._plugins.in_order("lmi_filter_text")
        self.parses_request = self._implemented("lmi_parse_request")
        self.formats_response = self._implemented("lmi_format_response")
        self.formatter = Formatter(function_of(module, file.formatter), file.name) if file.formatter else None

    def validate(self, artifacts: ModelArtifacts, config: BackendConfig, target: Target) -> Sequence[Problem]:
        """What the model's own lmi_validate_artifacts finds wrong."""
        answers = self._call("lmi_validate_artifacts", artifacts=artifacts, config=config, target=target)
        return [problem for answer in answers for problem in answer]

    def register_routes(self, app: Any, context: Any) -> None:
        """Let the model add its routes to a running server."""
        self._call("lmi_register_routes", app=app, context=context)

    def _implemented(self, hook: str) -> Callable[..., Any] | None:
        return getattr(self._plugins.extension_hooks, hook) if hook in self.file.hooks else None

    def _call(self, hook: str, **arguments: Any) -> Any:
        try:
            return getattr(self._plugins.extension_hooks, hook)(**arguments)
        except Exception as error:
            message = f"{hook} of {self.file.name} failed: {type(error).__name__}: {error}"
            raise PluginError("plugin.hook-failed", message, "This is a fault of that file") from error


def import_extension(file: ModelFile) -> Any:
    """The file as a module of a name that no other file has."""
    path = Path(file.path)
    return import_file(path, f"lmi_{path.stem}_{zlib.crc32(file.path.encode()):08x}")
