# SPDX-License-Identifier: Apache-2.0
"""``lmi plan``: what a model needs and where it fits, before a machine is paid for."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from lmi.cli.arguments import Asked, of_models
from lmi.cli.machine import AskedMachine, of_machine
from lmi.cli.plan_text import lines_of
from lmi.planning.demand import Demand
from lmi.planning.plan import plan_memory
from lmi.planning.report import as_json
from lmi.plugins import Plugins
from lmi.resolution import resolve

_EXIT_DOES_NOT_FIT = 1


@click.command()
@of_models
@of_machine
@click.option("--max-model-len", type=click.IntRange(min=1), help="The same as -o max_model_len=N.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Requests that run at the same time.")
@click.option("--input-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Of each prompt.")
@click.option("--output-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Of each answer.")
@click.option("--json", "as_data", is_flag=True, help="Print JSON.")
def plan(
    instance: str | None,
    device_memory: str | None,
    devices: str | None,
    max_model_len: int | None,
    concurrency: int | None,
    input_tokens: int,
    output_tokens: int,
    as_data: bool,
    **asked: Any,
) -> None:
    """Tell what MODEL needs: memory, machine, backend and time; no weight is read.

    MODEL is as `lmi serve` takes it; one that is elsewhere is not fetched. Without --instance and --device-memory the
    plan is for this machine. Exit code 1: the model does
    not fit, or files of it are not there.
    """
    machine = AskedMachine(instance=instance, device_memory=device_memory, devices=devices).target()
    if max_model_len is not None:
        asked["options"] = (*asked["options"], f"max_model_len={max_model_len}")
    plugins = Plugins.discover(os.environ)
    start = Asked(**asked).read(os.environ)
    demand = None if concurrency is None else Demand(
        concurrency=concurrency, input_tokens=input_tokens, output_tokens=output_tokens
    )  # fmt: skip
    plans = []
    for entry in start.entries:
        found = resolve(
            entry, flags=start.flags, environ=start.environ, plugins=plugins, defaults=start.defaults,
            default_folder=start.default_folder, devices=machine,
        )  # fmt: skip
        plans.append(plan_memory(found, plugins, demand=demand, is_here=machine is None))
    if as_data:
        made = [as_json(each) for each in plans]
        click.echo(json.dumps(made[0] if len(made) == 1 else made, indent=1))
    elif not plans:
        click.echo("no model: load_models says so")
    else:
        click.echo("\n\n".join("\n".join(lines_of(each)) for each in plans))
    if any(each.is_doubtful for each in plans):
        raise SystemExit(_EXIT_DOES_NOT_FIT)
