# SPDX-License-Identifier: Apache-2.0
"""``lmi serve``: serve a model over HTTP."""

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.argument("model", required=False)
@click.option(
    "-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Set an option; wins over all files."
)
@click.option("--name", default=None, help="Name of the model in routes and answers.  [default: model]")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="Port to listen on.  [default: 8080]")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0, 3600),
    default=25.0,
    show_default=True,
    help="Seconds running requests may go on after SIGTERM.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def serve(
    model: str | None,
    options: tuple[str, ...],
    name: str | None,
    host: str,
    port: int | None,
    drain_timeout: float,
    log_level: str,
) -> None:
    """Serve MODEL (a folder, or ORG/NAME on the hub) until SIGTERM.

    Without MODEL: what option.model_id says, else the container's model folder.
    """
    import logging

    from lmi.config.settings import parse_flags
    from lmi.loading import plan
    from lmi.plugins import Plugins
    from lmi.serving.server import Server, bind, port_of

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    os.environ["LMI_LOG_LEVEL"] = log_level  # the workers' too
    flags = parse_flags(options)
    plugins = Plugins.discover()
    if plugins.extensions:
        logging.getLogger(__name__).info("extensions: %s", ", ".join(plugins.extensions))
    listener = bind(host, port_of(os.environ) if port is None else port)
    server = Server(
        lambda: plan(model, name=name or "model", flags=flags, environ=os.environ, plugins=plugins),
        plugins,
        listener,
        drain_s=drain_timeout,
    )
    sys.exit(server.run())
