# SPDX-License-Identifier: Apache-2.0
"""What the hub refuses, in words: the kinds of refusal are told apart, and a passing one from one that stays."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lmi.api import ArtifactError
from lmi.config.coerce import likely_mistake
from lmi.config.names import shown

_PASSING = (408, 429)
_TOKEN = re.compile(r"(Bearer )[^'\"]+")
"""As HTTP libraries quote a header that they do not like."""


class HubReadError(OSError):
    """A file of the hub cannot be read.

    Args:
        error: what to tell.
        is_passing: another try may succeed.
        retry_after_s: how long the hub wants us to wait; 0 where it does not say.
    """

    def __init__(self, error: ArtifactError, *, is_passing: bool = False, retry_after_s: float = 0) -> None:
        super().__init__(str(error))
        self.error, self.is_passing, self.retry_after_s = error, is_passing, retry_after_s


def is_final(error: BaseException) -> bool:
    """Whether the hub gave an answer that it will give again, not one about its own state or the network's."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return True
    status = _status_of(error)
    return status is not None and 400 <= status < 500 and status not in _PASSING


def explained(model_id: str, revision: str | None, error: Exception, endpoint: str = "") -> ArtifactError:
    """The error to tell for what the hub's client raised.

    Args:
        model_id: ORG/NAME.
        revision: as it was asked for.
        error: what was raised.
        endpoint: the address that was asked.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return _gated(model_id)
    if isinstance(error, errors.RepositoryNotFoundError):
        return _absent(model_id)
    if isinstance(error, errors.RevisionNotFoundError):
        return failed("model.not-found", f"'{model_id}' has no revision '{revision}'", "Check option.revision")
    if isinstance(error, errors.HFValidationError):
        hint = likely_mistake(model_id) or "Check the spelling"
        return failed("model.not-found", f"'{model_id}' is no folder here and no hub id: {error}", hint)
    status = _status_of(error)
    if status in (401, 403, 429):
        return of_status(model_id, revision, "", status, {})
    where = _named(f"'{model_id}'", revision)
    return failed(
        "model.unreachable",
        f"{where} is no folder here and could not be fetched{_from(endpoint)}: {type(error).__name__}: {error}",
        "Check the network, the disk, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder",
    )


def of_status(model_id: str, revision: str | None, name: str, status: int, headers: Mapping[str, str]) -> ArtifactError:
    """The error to tell for an answer of the hub.

    Args:
        model_id: ORG/NAME.
        revision: as it was asked for.
        name: of the file; empty for the listing.
        status: of HTTP.
        headers: of the answer.
    """
    what = f"{name} of '{model_id}'" if name else f"'{model_id}'"
    code = headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        return _gated(model_id)
    if code == "RepoNotFound":
        return _absent(model_id)
    if status in (401, 403):
        message = f"the hub answers {status} for {what}: it does not accept this token"
        return failed("model.access-denied", message, "Set HF_TOKEN to a valid token that may read this model")
    if status == 429:
        message = f"the hub refuses {what} for now (429): this address or token asked too often"
        return failed("model.rate-limited", message, "Set HF_TOKEN, which raises the limit, or try again later")
    if status == 404:
        return failed("model.not-found", f"the hub has no {what} any more", "Check option.revision")
    message = f"the hub answers {status} for {_named(what, revision)}"
    return failed("model.unreachable", message, "Try again later, or name a folder")


def failed(code: str, message: str, hint: str) -> ArtifactError:
    """An error in one line and without a token, whatever the client wrote."""
    return ArtifactError(code, _TOKEN.sub(r"\1***", shown("", " ".join(message.split()))), [], hint)


def _gated(model_id: str) -> ArtifactError:
    return failed("model.gated", f"'{model_id}' is gated", "Accept its terms on its page and set HF_TOKEN")


def _absent(model_id: str) -> ArtifactError:
    message = f"'{model_id}' is neither a folder here nor a model that the hub shows to this token"
    return failed("model.not-found", message, "Check the spelling; for a private model set HF_TOKEN")


def _named(what: str, revision: str | None) -> str:
    return f"{what} at revision '{revision}'" if revision else what


def _from(endpoint: str) -> str:
    """Where it was asked for, without the login that the address may hold."""
    scheme, sign, rest = endpoint.rpartition("://")
    return f" from {scheme}{sign}{rest.rpartition('@')[2]}" if endpoint else ""


def _status_of(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
