# SPDX-License-Identifier: Apache-2.0
"""Files in an object store: S3, Google Cloud Storage, Azure Blob Storage."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Any

from lmi.api import ArtifactError

_URL = re.compile(r"(s3|gs|az|abfs|abfss)://[^/]+(/.*)?", re.IGNORECASE)
_N_RETRIES = 2


def is_object_url(text: str) -> bool:
    """Whether a text is the URL of a prefix in an object store."""
    return _URL.fullmatch(text) is not None


def prefix_of(url: str) -> str:
    """The URL with one ``/`` at its end; people write it with and without, and with ``/*``."""
    return url.removesuffix("*").rstrip("/") + "/"


def read_object(prefix: str, name: str, *, timeout_s: float = 10.0) -> bytes | None:
    """A small file below a prefix.

    Args:
        prefix: URL of the prefix.
        name: of the file, relative to it.
        timeout_s: longest time for an answer.
    Returns:
        Its content; None if there is no such file.
    Raises:
        ArtifactError: the store cannot be reached, or does not let us in.
    """
    import obstore
    from obstore.exceptions import BaseError

    url = prefix_of(prefix)
    try:
        return bytes(obstore.get(_store(url, timeout_s), name).bytes())
    except FileNotFoundError:
        return None
    except BaseError as error:
        reason = str(error).partition("\n")[0][:300]
        raise ArtifactError(
            "model.unreachable",
            f"{url}{name} cannot be read: {reason}",
            [],
            "Check the URL, the region (AWS_REGION) and that these credentials may read it",
        ) from error


def _store(url: str, timeout_s: float) -> Any:
    from obstore.store import from_url

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    retry: Any = {"max_retries": _N_RETRIES, "retry_timeout": timedelta(seconds=timeout_s)}
    client: Any = {"timeout": timedelta(seconds=timeout_s), "connect_timeout": timedelta(seconds=timeout_s)}
    if not url.lower().startswith("s3:"):
        return from_url(url, client_options=client, retry_config=retry)
    client["allow_http"] = endpoint.startswith("http://")
    config: Any = {"endpoint": endpoint} if endpoint else {}
    return from_url(url, config=config, client_options=client, retry_config=retry)
