# SPDX-License-Identifier: Apache-2.0
"""``lmi compile``: build what an engine needs of a model ahead of time."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from lmi.api import ConfigError, Problem, Progress
from lmi.api.folders import cache_root
from lmi.artifacts import is_object_url
from lmi.cli.arguments import Asked, of_models
from lmi.compiling.build import SAVED_AT, Built, build
from lmi.config.properties import FILE_NAME
from lmi.plugins import Plugins
from lmi.reading import Start
from lmi.serving.progress import LoadProgress
from lmi.starting import plan_all

_SPARED = "engine.compiles-at-start"
"""What a build is made for."""


@click.command("compile")
@of_models
@click.option("--output", required=True, metavar="FOLDER|s3://...", help="Where the build shall be.")
def compile_(output: str, **asked: Any) -> None:
    """Build ahead of time what MODEL's backend needs: engines, graphs, shards.

    MODEL is as `lmi serve` takes it, with the configuration that it will be served with. Everything that would stop a
    start stops the build before it begins. OUTPUT gets the build, a manifest (what it was made of) and a
    serving.properties (what to serve it with), whole or not at all; the same build again is left as it is.
    """
    build_and_tell(Asked(**asked).read(os.environ), output)


def build_and_tell(
    start: Start,
    output: str,
    *,
    copies_documents: bool = True,
    warnings: Iterable[Problem] = (),
) -> None:
    """Build a model, and print what came of it.

    Args:
        start: what is built: one model.
        output: a folder, or a URL of an object store.
        copies_documents: as ``build`` has it.
        warnings: what else the user should know.
    Raises:
        LmiError: as ``plan_all`` and ``build`` do.
    """
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _end)
    if len(start.entries) != 1:
        raise ConfigError("compile.several", f"{len(start.entries)} models are named; one is built at a time", ())
    # Where an earlier kind of build would go; this one goes to the output.
    start = replace(start, entries=(replace(start.entries[0], left_out=frozenset({SAVED_AT})),))
    bars, name = LoadProgress(sys.stderr), start.entries[0].name
    plugins = Plugins.discover(os.environ)

    def show(model: str, stage: str, fraction: float | None = None) -> None:
        bars.show(model, stage, fraction)

    [made] = plan_all(start, plugins, show)
    for warning in (*start.warnings, *made.warnings, *warnings):
        if warning.code != _SPARED:
            logging.getLogger(__name__).warning("%s", warning)
    run = partial(
        build, made, plugins, environ=os.environ, progress=partial(show, name), copies_documents=copies_documents
    )
    try:
        if is_object_url(output):
            built, place = _built_elsewhere(run, output, partial(show, name)), output
        else:
            folder = Path(output).expanduser().absolute()
            built, place = run(folder), str(folder)
    finally:
        bars.close()
    _print(built, place)


def _end(number: int, frame: object) -> None:
    """End as an interrupt does: what was begun is taken away."""
    raise SystemExit(128 + number)


def _built_elsewhere(run: Callable[..., Built], url: str, progress: Progress) -> Built:
    """The build in an object store. It stays here until all of it is there: what broke off goes on without another."""
    from lmi.compiling.upload import remote_manifest, upload

    folder = cache_root(os.environ) / "compiled" / hashlib.sha256(url.encode()).hexdigest()[:16]
    there = remote_manifest(url)
    built = run(folder, elsewhere=there)
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
