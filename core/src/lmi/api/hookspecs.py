# SPDX-License-Identifier: Apache-2.0
"""Every hook of LMI, in the order they are called from start-up to the last token.

A backend implements the first group in its package's ``__init__``; modules other than those its engine needs never
import the engine library. An extension implements whichever hooks it wants. All implementations may take fewer
parameters than specified, in any order.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click
    from fastapi import FastAPI

    from lmi.api.answering import Answerer
    from lmi.api.artifacts import ModelArtifacts, Target
    from lmi.api.backend import BackendInfo, Progress
    from lmi.api.config import BackendConfig
    from lmi.api.engine import Engine, Stepper
    from lmi.api.errors import Problem
    from lmi.api.requests import GenerationRequest, TokenChunk
    from lmi.api.texts import TextRequest, TextResult

PROJECT = "lmi"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# ------------------------------------------------------------------------------------------- describing a backend


@hookspec(firstresult=True)
def lmi_describe_backend() -> BackendInfo | None:
    """Say what this backend is, what selects it and what it can do.

    Called: whenever backends are listed, configured or chosen.
    Runs in: server, worker, command line. Answers: first. Cost: instant; no engine import, no device.
    """


@hookspec(firstresult=True)
def lmi_config_type() -> type[BackendConfig] | None:
    """Return the class of this backend's typed options.

    Called: once a start, before any file of the model is read.
    Runs in: server, worker, command line. Answers: first. Cost: instant; no engine import.
    """


# ---------------------------------------------------------------------------------------- before anything is loaded


@hookspec
def lmi_validate_artifacts(
    artifacts: ModelArtifacts, config: BackendConfig, target: Target
) -> Sequence[Problem] | None:
    """List everything that would stop this model on that machine.

    Called: once a start.
    Runs in: server. Answers: all are joined.
    Cost: reads headers of files; touches no device, raises for no model however bad.
    """


@hookspec(firstresult=True)
def lmi_compile_artifacts(
    artifacts: ModelArtifacts, config: BackendConfig, output_dir: str, progress: Progress
) -> ModelArtifacts | None:
    """Build what the engine needs ahead of time into ``output_dir``.

    Called: by ``lmi compile``; where the core starts the ranks, by each of them, with the same folder. What is served
    with more options than the build was given leaves them there, in a ``serving.properties``.
    Runs in: a process like a worker. Answers: first; without one the backend builds nothing. Cost: slow.

    Raises:
        EngineLoadError, OutOfMemoryError: with the cause; the command prints them, and nothing is left of the build.
    """


# ------------------------------------------------------------------------------------------- in the worker process


@hookspec
def lmi_check_engine(config: BackendConfig) -> Sequence[Problem] | None:
    """List everything in which the installed engine library differs from what the backend calls.

    Called: by ``lmi check``, where the backend's ``engine_libraries`` are installed, whose versions the core compares.
    A worker does not call it, since an engine may need things set before its library is imported: the backend finds
    the same problems in ``lmi_load_engine``, and gives them to ``refuse_engine``. Optional.
    Runs in: a process like a worker, under the same Python. Answers: all are joined.
    Cost: imports the engine library; reads no model and touches no device.
    """


@hookspec(firstresult=True)
def lmi_load_engine(
    artifacts: ModelArtifacts, config: BackendConfig, progress: Progress
) -> Engine | Stepper | Answerer | None:
    """Load the weights and return what generates, or what answers.

    Called: once a worker process.
    Runs in: worker. Answers: first. Cost: the one slow hook.

    Raises:
        EngineLoadError, OutOfMemoryError: with the cause; the server prints them and ends.
    """


@hookspec(firstresult=True)
def lmi_generate_batch(
    engine: Engine, requests: Sequence[GenerationRequest]
) -> list[AsyncGenerator[TokenChunk, None]] | None:
    """Start generating for requests that arrived together; what else runs shares the device's batch.

    Called: for each request, or once for a client-side batch; also when requests resume after a crash (with
    ``resumed_ids`` set), so wrappers are pure functions of request and ids. A stepper arrives wrapped as an Engine.
    Runs in: worker. Answers: first; the core's own implementation calls ``engine.generate`` for each request.
    Cost: instant; the generators do the work. Extensions wrap it (``@hookimpl(wrapper=True)``) to audit, to cache or to
    filter tokens.
    """


# ------------------------------------------------------------------------------------------------- in the server


@hookspec
def lmi_filter_request(request: TextRequest) -> TextRequest | None:
    """Change, answer or refuse a request before it is tokenized.

    Called: once a request.
    Runs in: server. Answers: all, in order; each gets the previous one's result; None leaves it as it is.
    Cost: instant.

    Raises:
        RefusedError: the caller gets the refusal.
    """


@hookspec
def lmi_filter_text(request: TextRequest, text: str, is_last: bool) -> str | None:
    """Change or refuse generated text before it leaves the server.

    Called: for the text of each token, in order, whether the answer streams or not; the last call has ``is_last``.
    Runs in: server. Answers: all, in order; each gets the previous one's result; None leaves it as it is. Text may be
    held back by returning "" and given with a later piece. Cost: instant.

    Raises:
        RefusedError: the answer ends with the refusal; what a stream has sent before stands.
    """


@hookspec(firstresult=True)
def lmi_parse_request(body: Any, headers: Mapping[str, str]) -> dict[str, Any] | None:
    """Translate a body of another schema into LMI's (``inputs``, ``parameters``, ``stream``).

    Called: once a request on the inference routes, with the decoded JSON.
    Runs in: server. Answers: first; None leaves the body to the next one, at last to LMI's schema. Cost: instant.

    Raises:
        RequestError: the body is wrong; the caller gets the error.
    """


@hookspec(firstresult=True)
def lmi_format_response(request: TextRequest, result: TextResult) -> Any:
    """Build the JSON answer of a request that does not stream.

    Called: once a request.
    Runs in: server. Answers: first; without an answer LMI's own schema is used. Cost: instant.
    """


@hookspec
def lmi_register_routes(app: FastAPI, context: Any) -> None:
    """Add routes to the app.

    Called: once, while the app is built, with the server's context (models by name).
    Runs in: server. Answers: all. Cost: instant.
    """


@hookspec
def lmi_register_commands(cli: click.Group) -> None:
    """Add commands to ``lmi``.

    Called: once a command line.
    Runs in: command line. Answers: all. Cost: instant.
    """
