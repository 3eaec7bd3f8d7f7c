# SPDX-License-Identifier: Apache-2.0
"""An object store, opened as AWS's own programs would: whose credentials, which region, which endpoint."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from lmi.api import ArtifactError
from lmi.artifacts.places.store_credentials import check_variables, credentials, endpoint_of, region_of
from lmi.artifacts.places.store_errors import explained, is_other_region, is_panic

_URL = re.compile(r"(s3|gs|az|abfs|abfss)://([^/]+)(?:/(.*))?", re.IGNORECASE | re.DOTALL)
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_DEFAULT_REGION = "us-east-1"
_N_RETRIES = 4
_LONGEST_S = 24 * 3600.0
"""A request that brings bytes may take that long; one that brings none is cut by the limit on silence."""


@dataclass(frozen=True)
class Location:
    """An URL of an object store, taken apart.

    Args:
        root: URL of the bucket, or container.
        key: of an object, or the prefix of several, without ``/`` at its ends; empty for the whole bucket.
    """

    root: str
    key: str

    @property
    def url(self) -> str:
        """Both joined again."""
        return f"{self.root}/{self.key}" if self.key else self.root

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.root.partition("://")[2]

    @property
    def is_s3(self) -> bool:
        """Whether AWS's rules hold."""
        return self.root.startswith("s3:")


def is_object_url(text: str) -> bool:
    """Whether a text is the URL of a prefix in an object store."""
    return _URL.fullmatch(text) is not None


def location_of(url: str) -> Location:
    """An URL taken apart; ``/`` and ``/*`` at its end say nothing.

    Raises:
        ValueError: it is no URL of an object store.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(f"{url!r} is no URL of an object store")
    key = (match[3] or "").removesuffix("*").strip("/")
    return Location(f"{match[1].lower()}://{match[2]}", key)


class Store:
    """A bucket, opened at its first use. A region that turns out to be another one is corrected once.

    Args:
        location: in the bucket.
        timeout_s: longest silence in an answer.
    """

    def __init__(self, location: Location, *, timeout_s: float) -> None:
        self._location, self._timeout_s = location, timeout_s
        self._opened: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._region, self._is_corrected = "", False

    def opened(self, n_retries: int = _N_RETRIES) -> Any:
        """What obstore's functions take.

        Args:
            n_retries: how often it repeats a request that failed in passing.
        Raises:
            ArtifactError: the credentials cannot be had.
        """
        with self._lock:
            if n_retries not in self._opened:
                self._opened[n_retries] = self._open(n_retries)
            return self._opened[n_retries]

    def corrects(self, error: Exception) -> bool:
        """Whether an error came from a wrong region and the store now knows the right one."""
        if self._is_corrected or not self._location.is_s3 or not is_other_region(error):
            return False
        self._is_corrected = True
        self._region = region_of(self._location.bucket, endpoint_of(os.environ))
        self._opened.clear()
        return bool(self._region)

    def explained(self, error: BaseException, url: str) -> ArtifactError:
        """What to tell for an error of obstore about an URL."""
        return explained(error, url, os.environ)

    def _open(self, n_retries: int) -> Any:
        from obstore.store import from_url

        span = timedelta(seconds=self._timeout_s)
        retry: Any = {"max_retries": n_retries, "retry_timeout": span}
        client: Any = {
            "timeout": timedelta(seconds=_LONGEST_S),
            "read_timeout": span,
            "connect_timeout": min(span, timedelta(seconds=5)),
        }
        if not self._location.is_s3:
            return from_url(self._location.root, client_options=client, retry_config=retry)
        check_variables(self._location.root, os.environ)
        endpoint = endpoint_of(os.environ)
        client["allow_http"] = endpoint.startswith("http://")
        bundle = os.environ.get("AWS_CA_BUNDLE")
        if bundle:
            client["root_certificate"] = _certificates(bundle)
        config: Any = {"endpoint": endpoint} if endpoint else {}
        provider = credentials(self._location.root, os.environ)
        self._region = self._region or _region(os.environ) or (provider.region if provider is not None else "")
        self._region = self._region or region_of(self._location.bucket, endpoint)
        if self._region:
            config["region"] = self._region
        if not endpoint and "AWS_ENDPOINT_URL" in os.environ:
            # obstore reads the variable too, and breaks down over one that is empty.
            config["endpoint"] = f"https://s3.{self._region or _DEFAULT_REGION}.amazonaws.com"
        return from_url(
            self._location.root,
            config=config,
            client_options=client,
            retry_config=retry,
            credential_provider=provider,
        )


class Absent(Exception):
    """There is no such object, and that may be right."""


def asked(store: Store, url: str, ask: Callable[[], Any]) -> Any:
    """What the store answers, in the bucket's own region.

    Args:
        store: to ask.
        url: for messages.
        ask: asks it.
    Raises:
        Absent: there is no such object.
        ArtifactError: the store cannot be reached, or does not let us in.
    """
    for _ in range(2):
        try:
            return ask()
        except (ArtifactError, Absent):
            raise
        except FileNotFoundError as error:
            raise Absent from error
        except Exception as error:
            # obstore's own errors, and ValueErrors of a configuration that it does not like.
            if not store.corrects(error):
                raise store.explained(error, url) from error
        except BaseException as error:
            if not is_panic(error):
                raise
            raise store.explained(error, url) from error
    raise AssertionError("a region is corrected once")


def head(store: Store, location: Location) -> Any:
    """Size and version of an object, as obstore tells them.

    Raises:
        Absent, ArtifactError: as ``asked`` does.
    """
    import obstore

    return asked(store, location.url, lambda: obstore.head(store.opened(), location.key))


def _region(environ: Mapping[str, str]) -> str:
    return next((environ[name] for name in _REGIONS if environ.get(name)), "")


def _certificates(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        message = f"AWS_CA_BUNDLE={path} cannot be read: {error.strerror}"
        raise ArtifactError("model.unreachable", message, [], "Name a file of certificates, or unset it") from error
