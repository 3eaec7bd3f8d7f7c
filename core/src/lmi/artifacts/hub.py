# SPDX-License-Identifier: Apache-2.0
"""Models from the hub, through its own client and cache."""

from __future__ import annotations

from pathlib import Path

from lmi.api import ArtifactError

_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py"]
_LEFT_OUT = ["*/*", "consolidated*", "training_args.bin", "optimizer*", "scheduler*"]
"""Copies of the same weights for other programs, and what training left behind."""


def fetch(model_id: str, revision: str | None, *, weights: bool) -> Path:
    """Bring a model into the hub's cache; what is there already is not fetched again.

    Args:
        model_id: ORG/NAME.
        revision: branch, tag or commit; None for the newest.
        weights: False fetches configuration and tokenizer only.
    Returns:
        The snapshot's folder.
    Raises:
        ArtifactError: saying whether it does not exist, is closed to this token, or could not be reached.
    """
    folder = _snapshot(model_id, revision, _SMALL_FILES)
    if not weights:
        return folder
    folder = _snapshot(model_id, revision, [*_SMALL_FILES, "*.safetensors"])
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(model_id, revision, [*_SMALL_FILES, "*.bin"])
    return folder


def _snapshot(model_id: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(model_id, revision=revision, allow_patterns=patterns, ignore_patterns=_LEFT_OUT)
    except Exception as error:
        # What the client raises differs with its version and its HTTP library; none of it may be lost.
        raise _explained(model_id, revision, error) from error
    return Path(found)


def _explained(model_id: str, revision: str | None, error: Exception) -> ArtifactError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return _failed("model.gated", f"'{model_id}' is gated", "Accept its terms on its page and set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError):
        message = f"'{model_id}' is neither a folder here nor a model that the hub shows to this token"
        return _failed("model.not-found", message, "Check the spelling; for a private model set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError):
        return _failed("model.not-found", f"'{model_id}' has no revision '{revision}'", "Check option.revision")
    if isinstance(error, errors.HFValidationError):
        return _failed(
            "model.not-found", f"'{model_id}' is no folder here and no hub id: {error}", "Check the spelling"
        )
    at = f" at revision '{revision}'" if revision else ""
    return _failed(
        "model.unreachable",
        f"'{model_id}'{at} is no folder here and could not be fetched: {type(error).__name__}: {error}",
        "Check the network, the disk and HF_HUB_OFFLINE, or name a folder",
    )


def _failed(code: str, message: str, hint: str) -> ArtifactError:
    return ArtifactError(code, " ".join(message.split()), [], hint)
