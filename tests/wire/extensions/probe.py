# SPDX-License-Identifier: Apache-2.0
"""Routes that show the server from inside, and a command."""

import os
import sys
from typing import Any

import click
from fastapi import FastAPI

from lmi.api import hookimpl


@hookimpl
def lmi_register_routes(app: FastAPI, context: Any) -> None:
    @app.get("/probe")
    async def probe() -> dict[str, Any]:
        return {"pid": os.getpid(), "modules": sorted(sys.modules), "models": list(context.models)}


@hookimpl
def lmi_register_commands(cli: click.Group) -> None:
    @cli.command()
    def probe() -> None:
        """Say hello."""
        click.echo("hello from the probe")
