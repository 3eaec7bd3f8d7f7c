# SPDX-License-Identifier: Apache-2.0
"""Whose credentials read from S3, and in which region a bucket is."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lmi.api import ArtifactError
from lmi.config.names import shown

_S3_ENDPOINT = "https://s3.amazonaws.com"
_OWN_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_SENT = (*_OWN_KEYS, "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
_CAN_BE_SENT = re.compile(r"[!-~]*")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_OF_CONTAINER = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class ProfileCredentials:
    """Credentials of a profile, whatever its kind: keys, a role, single sign-on, a program.

    Args:
        session: of botocore.
        source: of what it found.
    """

    def __init__(self, session: Any, source: Any) -> None:
        self._source = source
        self.region = str(session.get_config_variable("region") or "")

    def __call__(self) -> Any:
        frozen = self._source.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            # The source renews them itself where they end; it is only to be asked again.
            "expires_at": datetime.now(timezone.utc) + timedelta(minutes=10),
        }


def credentials(url: str, environ: Mapping[str, str]) -> ProfileCredentials | None:
    """Who reads from S3; None where obstore finds that out by itself.

    It knows keys in variables, web identity (EKS), the container's role (ECS, SageMaker) and the instance's. Profiles,
    with all they can say, are read by botocore, which has to be installed for them.

    Args:
        url: for messages.
        environ: AWS's variables.
    Raises:
        ArtifactError: a profile is wanted and cannot be had.
    """
    if all(environ.get(name) for name in _OWN_KEYS) or environ.get("AWS_SKIP_SIGNATURE"):
        return None
    profile = environ.get("AWS_PROFILE", "")
    if not profile and (any(environ.get(name) for name in _OF_CONTAINER) or not profile_files(environ)):
        return None
    try:
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped,unused-ignore]
        from botocore.session import Session  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        if not profile:
            return None
        message = f"AWS_PROFILE={profile} names whose credentials read {url}, and profiles are read by botocore"
        hint = "pip install 'lmi-core[aws]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise ArtifactError("model.access-denied", message, [], hint) from None
    try:
        session = Session(profile=profile or None)
        found = session.get_credentials()
    except BotoCoreError as error:
        message = f"the credentials for {url} cannot be had: {error}"
        raise ArtifactError("model.access-denied", message, [], "Check AWS_PROFILE and ~/.aws/config") from error
    return ProfileCredentials(session, found) if found is not None else None


def check_variables(url: str, environ: Mapping[str, str]) -> None:
    """Refuse variables that no request can carry; obstore breaks down over them.

    Args:
        url: for messages.
        environ: AWS's variables.
    Raises:
        ArtifactError: one has a character that it cannot have. Its value is not told.
    """
    for name in _SENT:
        if not _CAN_BE_SENT.fullmatch(environ.get(name, "")):
            message = f"{name} holds a line break, a space or another character that it cannot have"
            hint = f"Set {name} without it; a value read from a file often ends with a line break"
            raise ArtifactError("model.access-denied", f"{message}, so {url} cannot be read", [], hint)


def endpoint_of(environ: Mapping[str, str]) -> str:
    """The address of the store in place of AWS's own; "" where none is set. A variable without a value sets none.

    Args:
        environ: AWS's variables.
    Raises:
        ArtifactError: it is no URL; obstore breaks down over such.
    """
    name = next((each for each in _ENDPOINTS if environ.get(each, "").strip()), "")
    endpoint = environ.get(name, "").strip()
    if not endpoint or _is_endpoint(endpoint):
        return endpoint
    better = f"http://{endpoint}"
    hint = f"Write {shown('', better)}" if _is_endpoint(better) else f"Set {name} to http(s)://HOST:PORT, or unset it"
    shown_value = shown("", endpoint) if endpoint.isprintable() else repr(shown("", endpoint))
    raise ArtifactError("model.unreachable", f"{name}={shown_value} is no URL", [], hint)


def _is_endpoint(text: str) -> bool:
    if not _CAN_BE_SENT.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
        host = host if parts.port is None else host.rpartition(":")[0]
    except ValueError:  # a port that is no number, or too large
        return False
    return parts.scheme in ("http", "https") and _HOST.fullmatch(host) is not None


def profile_files(environ: Mapping[str, str]) -> list[Path]:
    """The files with profiles that there are."""
    named = [
        environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials",
        environ.get("AWS_CONFIG_FILE") or "~/.aws/config",
    ]
    found = []
    for name in named:
        try:
            path = Path(name).expanduser()
            if path.is_file():
                found.append(path)
        except (OSError, RuntimeError):  # nobody's home
            continue
    return found


def region_of(bucket: str, endpoint: str, timeout_s: float = 5.0) -> str:
    """The region that a bucket says it is in, asked without credentials; "" where nobody says."""
    url = f"{(endpoint or _S3_ENDPOINT).rstrip('/')}/{bucket}"
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the endpoint is the user's own
    opener = urllib.request.build_opener(_Unredirected)
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return str(answer.headers.get("x-amz-bucket-region") or "")
    except urllib.error.HTTPError as error:
        return str(error.headers.get("x-amz-bucket-region") or "")
    except (OSError, ValueError):
        return ""


class _Unredirected(urllib.request.HTTPRedirectHandler):
    """A bucket elsewhere is told by a redirection, whose header is all that is wanted."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
