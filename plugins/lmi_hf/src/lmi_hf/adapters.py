# SPDX-License-Identifier: Apache-2.0
"""Where the base model of an adapter is loaded from."""

from __future__ import annotations

import json

from lmi.api import ModelArtifacts
from lmi.api.merging import base_of


def base_location(artifacts: ModelArtifacts) -> str:
    """Where an adapter's base model is loaded from: an absolute folder, or the name on the hub as it stands.

    Args:
        artifacts: an adapter on this machine; its file is read where the description lacks it.
    """
    start = base_of(artifacts) or _read_base(artifacts)
    folder = artifacts.path / start  # an absolute start stays as it is
    return str(folder) if folder.is_dir() else start


def _read_base(artifacts: ModelArtifacts) -> str:
    try:
        content = json.loads((artifacts.path / "adapter_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get("base_model_name_or_path") or "") if isinstance(content, dict) else ""
