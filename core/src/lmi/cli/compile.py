# SPDX-License-Identifier: Apache-2.0
"""``lmi compile``: build what an engine needs of a model ahead of time."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from lmi.api import ConfigError, Progress
from lmi.api.folders import cache_root
from lmi.artifacts import is_object_url
from lmi.cli.arguments import Asked, of_models
from lmi.compiling.build import Built, build
from lmi.config.properties import FILE_NAME
from lmi.loading import LoadPlan
from lmi.plugins import Plugins
from lmi.serving.progress import LoadProgress
from lmi.starting import plan_all


@click.command("compile")
@of_models
@click.option("--output", required=True, metavar="FOLDER|s3://...", help="Where the build shall be.")
def compile_(output: str, **asked: Any) -> None:
    """Build ahead of time what MODEL's backend needs: engines, graphs, shards.

    MODEL is as `lmi serve` takes it, with the configuration that it will be served with. Everything that would stop a
    start stops the build before it begins. OUTPUT gets the build, a manifest (what it was made of) and a
    serving.properties (what to serve it with), whole or not at all; the same build again is left as it is.
    """
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)
    start = Asked(**asked).read(os.environ)
    if len(start.entries) != 1:
        raise ConfigError("compile.several", f"{len(start.entries)} models are named; one is built at a time", ())
    bars, name = LoadProgress(sys.stderr), start.entries[0].name
    plugins = Plugins.discover(os.environ)

    def show(model: str, stage: str, fraction: float | None = None) -> None:
        bars.show(model, stage, fraction)

    [made] = plan_all(start, plugins, show)
    try:
        built, place = _built(made, plugins, output, partial(show, name))
    finally:
        bars.close()
    _print(built, place)


def _built(made: LoadPlan, plugins: Plugins, output: str, progress: Progress) -> tuple[Built, str]:
    """The build, and where it is."""
    if is_object_url(output):
        return _built_elsewhere(made, plugins, output, progress), output
    folder = Path(output).expanduser().absolute()
    return build(made, plugins, folder, os.environ, progress), str(folder)


def _built_elsewhere(made: LoadPlan, plugins: Plugins, url: str, progress: Progress) -> Built:
    """The build in an object store. It stays here until all of it is there: what broke off goes on without another."""
    from lmi.compiling.upload import remote_manifest, upload

    folder = cache_root(os.environ) / "compiled" / hashlib.sha256(url.encode()).hexdigest()[:16]
    there = remote_manifest(url)
    built = build(made, plugins, folder, os.environ, progress, there)
    if there is None or built.manifest.key != there.key:
        upload(folder, built.manifest, url, progress)
        built = replace(built, is_new=True)
    shutil.rmtree(folder, ignore_errors=True)
    return built


def _print(built: Built, place: str) -> None:
    manifest = built.manifest
    n_bytes = sum(each.n_bytes for each in manifest.files.values())
    if built.is_new:
        click.echo(f"built for {manifest.backend} in {manifest.build_s:g} s: {place} ({n_bytes / 1e6:.1f} MB)")
    else:
        click.echo(f"{place} is this build already; nothing was done")
    click.echo(f"serve it with: lmi serve {place}")
    click.echo(f"what {FILE_NAME} there says:")
    for key, value in sorted(manifest.serve_with.items()):
        click.echo(f"  {key}={value}")
