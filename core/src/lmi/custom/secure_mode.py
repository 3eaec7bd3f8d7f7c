# SPDX-License-Identifier: Apache-2.0
"""SageMaker's secure mode, as far as scripts go: which files must not be there.

Source: the secure mode of LMI containers; its variables are set by the platform alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmi.api import Problem
from lmi.custom.source import FILE_NAME

MODE = "SAGEMAKER_SECURE_MODE"
CONTROLS = "SAGEMAKER_SECURITY_CONTROLS"
CHANNELS = "SAGEMAKER_UNTRUSTED_CHANNELS"
NO_SCRIPTS = "DISALLOW_CUSTOM_INFERENCE_SCRIPTS"


def forbids_scripts(environ: Mapping[str, str]) -> bool:
    """Whether scripts that come with a model must not run."""
    controls = {each.strip().upper() for each in environ.get(CONTROLS, "").split(",")}
    return environ.get(MODE, "").strip().lower() in ("true", "1") and NO_SCRIPTS in controls


def script_problems(scripts: set[Path], folder: Path | None, environ: Mapping[str, str]) -> list[Problem]:
    """A problem for each script where scripts are forbidden.

    Args:
        scripts: what the configuration would run.
        folder: the model's; a ``model.py`` in it, or in one of its adapters, counts although nothing names it.
        environ: also read for further folders that are not trusted, which are searched whole.
    """
    if not forbids_scripts(environ):
        return []
    found = set(scripts)
    if folder is not None:
        found |= {folder / FILE_NAME, *folder.glob(f"adapters/*/{FILE_NAME}")}
    for channel in environ.get(CHANNELS, "").split(","):
        if channel.strip() and Path(channel.strip()).is_dir():
            found |= set(Path(channel.strip()).rglob(FILE_NAME))
    return [
        Problem(
            code="script.forbidden",
            message=f"{path} is a script, and {CONTROLS} has {NO_SCRIPTS} while {MODE} is on",
            hint="Take the file out of the model, and option.entryPoint out of its configuration",
            path=str(path),
            source=CONTROLS,
        )
        for path in sorted({path.resolve() for path in found if path.is_file()})
    ]
