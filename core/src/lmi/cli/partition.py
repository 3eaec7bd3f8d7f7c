# SPDX-License-Identifier: Apache-2.0
"""``lmi partition``: ``lmi compile`` by the arguments that LMI's containers took for it.

Source: DJL Serving 0.26 and 0.27, ``serving/docker/partition/partition.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from lmi.api import ConfigError, Problem, Severity
from lmi.cli.arguments import Asked
from lmi.cli.compile import build_and_tell
from lmi.compiling.build import SAVED_AT
from lmi.config import Settings, read_settings

INPUT = "/opt/ml/input/data/training"
"""Where a training job of SageMaker has its input. Source: the SageMaker training toolkit."""

_KEYS = {
    "model_id": "option.model_id",
    "engine": "engine",
    "save_mp_checkpoint_path": SAVED_AT,
    "tensor_parallel_degree": "option.tensor_parallel_degree",
    "pipeline_parallel_degree": "option.pipeline_parallel_degree",
    "quantization": "option.quantize",
}
"""Name of a flag -> the key that it sets."""


@click.command("partition")
@click.option(
    "--model-dir", default=None, metavar="FOLDER", help=f"With serving.properties, weights.  [default: {INPUT}]"
)
@click.option("--model-id", default=None, help="The model, if it is not in that folder.")
@click.option("--engine", default=None, help="As engine= in serving.properties.")
@click.option("--save-mp-checkpoint-path", default=None, metavar="FOLDER|s3://...", help="Where the build shall be.")
@click.option("--tensor-parallel-degree", default=None, help="Devices that one copy is split over.")
@click.option("--pipeline-parallel-degree", default=None, help="Stages that one copy is split into.")
@click.option("--quantization", default=None, help="As option.quantize.")
@click.option("--skip-copy", is_flag=True, help="Leave the model's tokenizer and documents out of the build.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Set another option.")
def partition(model_dir: str | None, skip_copy: bool, options: tuple[str, ...], **given: str | None) -> None:
    """Build ahead of time what a model's backend needs, by the arguments of LMI's containers.

    Does what `lmi compile` does. A flag wins over serving.properties and OPTION_* variables; where they differ, a
    warning says so. `train` is another name of this command.
    """
    flags = {name: value for name, value in given.items() if value is not None}
    folder = Path(INPUT if model_dir is None else model_dir).expanduser()
    written = read_settings(model_folder=folder, environ=os.environ, flags={})
    warnings = [*_overruled(flags, written)]
    output = flags.pop("save_mp_checkpoint_path", None) or written.text(SAVED_AT)
    if output is None:
        raise ConfigError(
            "config.no-output", "nothing says where the build shall be", (),
            f"Give --save-mp-checkpoint-path, or set {SAVED_AT}",
        )  # fmt: skip
    pairs = [f"{_KEYS[name]}={value}" for name, value in flags.items()]
    is_named = "model_id" in flags or _KEYS["model_id"] in written
    asked = Asked(
        # Where the model is named, a folder that is not there has no say: it may be one of another machine.
        model=str(folder) if folder.is_dir() or not is_named else None,
        options=(*options, *pairs),
        name=None, models=None, model_store=None, config_file=None,
    )  # fmt: skip
    build_and_tell(asked.read(os.environ), output, copies_documents=not skip_copy, warnings=warnings)
    if skip_copy:
        click.echo("the model's tokenizer is not in the build (--skip-copy): put it there before it is served")


def _overruled(flags: dict[str, str], written: Settings) -> Iterator[Problem]:
    """Flags that say something else than what is written."""
    for name, value in flags.items():
        below = written.get(_KEYS[name])
        if below is not None and below.value.lower() != value.lower():
            flag = f"--{name.replace('_', '-')}"
            yield Problem(
                code="config.overruled",
                message=f"{flag} {value} holds, and {below.key}={below.shown} does not",
                hint="Remove one of them, or make them equal",
                source=below.source,
                severity=Severity.WARNING,
            )
