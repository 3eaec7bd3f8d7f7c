# SPDX-License-Identifier: Apache-2.0
"""``lmi serve``: serve models over HTTP."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any

import click

from lmi.cli.arguments import Asked, log_to_stderr, of_models, with_drain_timeout, with_log_level


@click.command()
@of_models
@click.option("--host", default=None, help="Address to listen on.  [default: 0.0.0.0]")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="Port to listen on.  [default: 8080]")
@with_drain_timeout("running requests may go on after SIGTERM")
@with_log_level
def serve(host: str | None, port: int | None, drain_timeout: float, log_level: str, **asked: Any) -> None:
    """Serve MODEL (a folder, an s3:// prefix, or ORG/NAME on the hub) until SIGTERM.

    Without MODEL: what SERVING_LOAD_MODELS or option.model_id says, else what the container's model folder holds.
    """
    from lmi.container import Container
    from lmi.serving.address import bind, management_address, wanted_address
    from lmi.serving.early import answered_early

    log_to_stderr(log_level)
    start = Asked(**asked).read(os.environ)
    for warning in start.warnings:
        logging.getLogger(__name__).warning("%s", warning)
    address = wanted_address(start.server, start.server_settings, os.environ, host=host, port=port)
    managed = management_address(start.server, start.server_settings, Container.of(os.environ).safe_ports)
    listener = bind(address)
    management = None if managed is None else (managed, bind(managed))

    with answered_early(listener) if address.certificate_file is None else contextlib.nullcontext():
        # Most of what there is to import.
        from lmi.plugins import Plugins
        from lmi.serving.server import Server

        plugins = Plugins.discover()
        if plugins.extensions:
            logging.getLogger(__name__).info("extensions: %s", ", ".join(plugins.extensions))
        server = Server(start, plugins, listener, address, drain_s=drain_timeout, management=management)
    sys.exit(server.run())
