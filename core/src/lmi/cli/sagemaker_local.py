# SPDX-License-Identifier: Apache-2.0
"""``lmi sagemaker-local``: call a container as SageMaker's runtime would have it."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmi.cli.arguments import log_to_stderr, words_of_command
from lmi.cli.main import EXIT_FAILURE

if TYPE_CHECKING:
    from lmi.sagemaker_local.asynchronous import Asynchronous
    from lmi.sagemaker_local.definition import Definition
    from lmi.sagemaker_local.violations import Violations

_ENDPOINT = "model"


def _pairs(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    for text in given:
        if "=" not in text or text.startswith("="):
            raise click.BadParameter(f"{text!r} is not written as NAME=VALUE", context, parameter)
    return {name: value for name, _, value in (text.partition("=") for text in given)}


def _adapters(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Folders are meant from here: a container has a folder of its own to begin at."""
    return {
        name: str(Path(src).resolve()) if Path(src).exists() else src
        for name, src in _pairs(context, parameter, given).items()
    }


def _seconds(text: str) -> float:
    """A number; 0 where it is none, or has no end."""
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def _times(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    from lmi.sagemaker_local.times import NAMES

    found = {}
    for name, text in _pairs(context, parameter, given).items():
        if name not in NAMES:
            raise click.BadParameter(f"{name!r} is no time; there are {', '.join(NAMES)}", context, parameter)
        found[name] = _seconds(text)
        if not found[name] > 0:
            raise click.BadParameter(f"{text!r} is no number of seconds", context, parameter)
    return found


@click.command("sagemaker-local")
@click.argument("models", nargs=-1, metavar="[NAME=]MODEL ...")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of lmi serve for MODEL.")
@click.option("--url", "urls", multiple=True, metavar="URL", help="A container that runs already; several are copies.")
@click.option("--command", default=None, metavar="'CMD ...'", callback=words_of_command,
              help="Starts any other container; it binds $PORT.")  # fmt: skip
@click.option("--endpoint", default=_ENDPOINT, show_default=True, help="Name of the endpoint, where MODEL has none.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="Port to listen on.")
@click.option("--copies", "n_copies", type=click.IntRange(1), default=1, show_default=True,
              help="How many containers an endpoint has.")  # fmt: skip
@click.option("-e", "--env", "environ", multiple=True, metavar="NAME=VALUE", callback=_pairs,
              help="Environment of the containers, as in the endpoint's definition.")  # fmt: skip
@click.option("--adapter", "adapters", multiple=True, metavar="NAME=SRC", callback=_adapters,
              help="An inference component that is an adapter.")  # fmt: skip
@click.option("--multi-model", default="", metavar="FOLDER", help="Folder or s3:// prefix of archives: TargetModel.")
@click.option("--unpack-to", type=click.Path(file_okay=False, path_type=Path), default=None,
              help="Where archives are unpacked, in place of /opt/ml/models.")  # fmt: skip
@click.option("--async-output", default="", metavar="S3_URL", help="Prefix for answers of InvokeEndpointAsync.")
@click.option("--async-folder", type=click.Path(file_okay=False, path_type=Path), default=None,
              help="Folder that stands for S3 in InvokeEndpointAsync.")  # fmt: skip
@click.option("--async-at-once", type=click.IntRange(1), default=4, show_default=True,
              help="Asynchronous requests that a container gets at the same time.")  # fmt: skip
@click.option("--s3-endpoint-url", default="", metavar="URL", help="An S3 server in place of AWS's.")
@click.option("--startup-timeout", type=click.FloatRange(0, min_open=True), default=None, metavar="SECONDS",
              help="What a container has until it is healthy.  [default: 480]")  # fmt: skip
@click.option("--time", "seconds", multiple=True, metavar="NAME=SECONDS", callback=_times,
              help="Another time than the platform's.")  # fmt: skip
@click.option("--part-bytes", type=click.IntRange(1), default=None,
              help="Longest part of a stream, to find clients that take a part for an event.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit with 1 if there was a violation.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def sagemaker_local(strict: bool, log_level: str, s3_endpoint_url: str, **asked: Any) -> None:
    """Serve Amazon SageMaker's runtime API on this machine, in front of a container.

    MODEL is served by lmi serve; --command starts any other server, and --url names one that runs. Unmodified clients
    of sagemaker-runtime call it with endpoint_url=http://127.0.0.1:8081. Whatever breaks SageMaker's contract is
    logged as it happens, listed at GET /violations, and counted at the end.

    Exit code 0: it was told to stop; 1: every endpoint failed, or with --strict there was a violation; 2: the call is
    wrong.
    """
    from lmi.sagemaker_local.violations import Violations

    log_to_stderr(log_level)
    if s3_endpoint_url:
        os.environ["AWS_ENDPOINT_URL_S3"] = s3_endpoint_url
    violations = Violations()
    with tempfile.TemporaryDirectory(prefix="lmi-sagemaker-", ignore_cleanup_errors=True) as folder:
        have_failed = _run(_definition(Path(folder), **asked), violations, **asked)
    click.echo("\n".join(violations.summary()))
    sys.exit(EXIT_FAILURE if have_failed or (strict and len(violations)) else 0)


def _definition(
    folder: Path,
    *,
    models: tuple[str, ...],
    urls: tuple[str, ...],
    command: list[str],
    endpoint: str,
    multi_model: str,
    **asked: Any,
) -> Definition:
    from lmi.sagemaker_local.definition import Definition, named
    from lmi.sagemaker_local.headers import is_name

    if sum([bool(models), bool(urls), bool(command)]) > 1:
        raise click.UsageError("Give one of MODEL, --url and --command: each says where the container comes from")
    in_vain = {"-o": bool(asked["options"]) and bool(urls or command), "-e": bool(asked["environ"]) and bool(urls),
               "--copies": asked["n_copies"] > 1 and bool(urls)}  # fmt: skip
    for flag in (flag for flag, is_given in in_vain.items() if is_given):
        raise click.UsageError(f"{flag} has no effect here: nothing is started by lmi serve, or at all")
    if multi_model and models:
        raise click.UsageError("A multi-model endpoint has no MODEL: its models are the archives in --multi-model")
    pairs = [named(text, endpoint) for text in models]
    wanted: dict[str, str | None] = {**dict(pairs)} if pairs else {endpoint: None}
    if len(wanted) < len(pairs):
        raise click.UsageError("Two models have one name. Write them as NAME=MODEL")
    for name in (*wanted, *asked["adapters"]):
        if not is_name(name):
            raise click.UsageError(f"{name!r} is no name of an endpoint: letters, digits and '-', at most 63")
    return Definition(
        models=wanted,
        options=asked["options"],
        urls=urls,
        command=command,
        n_copies=asked["n_copies"],
        environ=asked["environ"],
        adapters=asked["adapters"],
        multi_model=multi_model,
        folder=folder,
        unpack_to=asked["unpack_to"],
    )


def _run(definition: Definition, violations: Violations, *, host: str, port: int, **asked: Any) -> bool:
    """Serve until told to stop; whether every endpoint has failed."""
    import uvloop

    from lmi.sagemaker_local.app import build_app
    from lmi.sagemaker_local.emulator import Emulator
    from lmi.sagemaker_local.times import Times
    from lmi.serving.address import Address, bind

    seconds = {**asked["seconds"]}
    if asked["startup_timeout"] is not None:
        seconds["startup"] = asked["startup_timeout"]
    times = Times().changed(seconds)
    endpoints = definition.endpoints(times, violations)
    asynchronous = _asynchronous(violations, **asked)
    address = Address(host=host, port=port, source="--port")
    listener = bind(address)
    app = build_app(endpoints, asynchronous, violations, asked["part_bytes"])
    return uvloop.run(Emulator(endpoints, asynchronous, app, listener, address.url(listener)).run())


def _asynchronous(
    violations: Violations, *, async_output: str, async_folder: Path | None, async_at_once: int, **_: Any
) -> Asynchronous:
    from lmi.sagemaker_local.asynchronous import Asynchronous
    from lmi.sagemaker_local.objects import Objects

    root = async_output
    if async_folder is not None:
        async_folder.mkdir(parents=True, exist_ok=True)
        root = root or (async_folder.resolve() / "output").as_uri()
    return Asynchronous(Objects(async_folder), root, async_at_once, violations)
