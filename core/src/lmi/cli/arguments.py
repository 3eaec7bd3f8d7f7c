# SPDX-License-Identifier: Apache-2.0
"""Arguments that say what is served; every command that reads a configuration has the same ones."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lmi.reading import Start

_Command = TypeVar("_Command", bound=Callable[..., Any])

_DECORATORS = (
    click.argument("model", required=False),
    click.option(
        "-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Set an option; wins over all files."
    ),
    click.option("--name", default=None, help="Name of the model in routes and answers.  [default: model]"),
    click.option(
        "-m", "--models", metavar="ENTRIES", default=None, help="Models to load, as SERVING_LOAD_MODELS has them."
    ),
    click.option("-s", "--model-store", metavar="FOLDER", default=None, help="Folder of models, or of one."),
    click.option("-f", "--config-file", metavar="FILE", default=None, help="The server's config.properties."),
)


def of_models(command: _Command) -> _Command:
    """Give a command the arguments that ``Asked`` is made of."""
    for decorate in reversed(_DECORATORS):
        command = decorate(command)
    return command


def with_log_level(command: _Command) -> _Command:
    """Give a command ``--log-level``, as ``log_to_stderr`` takes it."""
    levels = click.Choice(["debug", "info", "warning", "error"])
    return click.option("--log-level", type=levels, default="info", show_default=True)(command)


def with_drain_timeout(what: str) -> Callable[[_Command], _Command]:
    """What gives a command ``--drain-timeout``.

    Args:
        what: for its help: seconds of what.
    """
    return click.option(
        "--drain-timeout", type=click.FloatRange(0, 3600), default=25.0, show_default=True, help=f"Seconds {what}."
    )


def words_of_command(context: click.Context, parameter: click.Parameter, given: str | None) -> list[str]:
    """The words of a command that is one option's value; a callback of click's.

    Raises:
        click.BadParameter: it is none, as a shell would have it.
    """
    try:
        return shlex.split(given or "")
    except ValueError as error:
        raise click.BadParameter(f"{given!r} is no command: {error}", context, parameter) from None


def log_to_stderr(level: str) -> None:
    """Write this process's log, and that of the workers it starts, to stderr.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    os.environ["LMI_LOG_LEVEL"] = level


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says of the models, as ``of_models`` hands it over."""

    model: str | None
    options: tuple[str, ...]
    name: str | None
    models: str | None
    model_store: str | None
    config_file: str | None

    def read(self, environ: Mapping[str, str] = os.environ) -> Start:
        """What is to be served.

        Raises:
            ConfigError: MODEL is empty; a flag, config.properties or ``load_models`` is wrong.
        """
        from lmi.api import ConfigError
        from lmi.config.sources import parse_flags
        from lmi.reading import read_start

        if self.model is not None and not self.model.strip():
            message = "MODEL is empty, as a shell makes it of a variable that is not set"
            raise ConfigError("config.no-model", message, (), "Name a model, or leave the argument out")
        given = {"load_models": self.models, "model_store": self.model_store}
        return read_start(
            self.model,
            name=self.name,
            flags=parse_flags(self.options),
            server_flags={key: value for key, value in given.items() if value is not None},
            config_file=self.config_file,
            environ=environ,
        )
