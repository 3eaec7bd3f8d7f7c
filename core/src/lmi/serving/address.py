# SPDX-License-Identifier: Apache-2.0
"""Where the server listens, decided and bound before anything slow happens."""

from __future__ import annotations

import contextlib
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from lmi.api.errors import ConfigError
from lmi.config import Settings
from lmi.config.server import ServerOptions

_KEY = "inference_address"
_UNIX = "unix:"
_BACKLOG = 2048


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where requests are answered.

    Args:
        host, port: of a TCP socket; port 0 takes a free one.
        path: of a unix socket; then host and port say nothing.
        private_key_file, certificate_file: for https; None serves http.
    """

    host: str = "0.0.0.0"
    port: int = 8080
    path: str = ""
    private_key_file: str | None = None
    certificate_file: str | None = None

    def url(self, bound: socket.socket) -> str:
        """What clients on this machine call."""
        if self.path:
            return f"unix:{self.path}"
        host, port = bound.getsockname()[:2]
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"http{'s' if self.certificate_file else ''}://{shown}:{port}"


def wanted_address(
    options: ServerOptions,
    settings: Settings,
    environ: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
) -> Address:
    """The address that flags and variables ask for.

    The port is, highest first: the flag, what SageMaker says, that of ``inference_address``.

    Args:
        options: the server's.
        settings: where they were set.
        environ: read for SAGEMAKER_BIND_TO_PORT.
        host, port: of the command line.
    Raises:
        ConfigError: one of them is none.
    """
    source = settings[_KEY].source if _KEY in settings else "the default"
    address = replace(
        _parsed(options.inference_address, source),
        private_key_file=options.private_key_file if options.inference_address.lower().startswith("https") else None,
        certificate_file=options.certificate_file if options.inference_address.lower().startswith("https") else None,
    )
    told = environ.get("SAGEMAKER_BIND_TO_PORT")
    if told is not None and not _is_port(told):
        raise ConfigError(
            "server.cannot-bind", f"SAGEMAKER_BIND_TO_PORT={told!r} is no port", (), "Give a number from 1 to 65535"
        )
    if port is None and told is not None:
        port = int(told)
    if host is not None or port is not None:
        return replace(
            address, path="", host=address.host if host is None else host, port=address.port if port is None else port
        )
    return address


def _parsed(text: str, source: str) -> Address:
    if text.lower().startswith(_UNIX) and len(text) > len(_UNIX):
        return Address(path=text[len(_UNIX) :].removeprefix("//"))
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme.lower() in ("http", "https") and parts.hostname and parts.path in ("", "/"):
            default = 8443 if parts.scheme.lower() == "https" else 8080
            return Address(host=parts.hostname, port=default if parts.port is None else parts.port)
    raise ConfigError(
        "config.invalid-value",
        f"inference_address={text} ({source}) is no address",
        (),
        "Write it like http://0.0.0.0:8080, https://0.0.0.0:8443 or unix:/run/lmi.sock",
    )


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 65536


def bind(address: Address) -> socket.socket:
    """Take the address.

    Raises:
        ConfigError: it is taken or not allowed.
    """
    try:
        if address.path:
            return _bind_unix(address.path)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        what = address.path or f"port {address.port} of {address.host}"
        hint = "Choose another inference_address" if address.path else "Choose another --port"
        raise ConfigError("server.cannot-bind", f"{what} cannot be used: {error}", (), hint) from error


def _bind_unix(path: str) -> socket.socket:
    """A unix socket; what a server that died has left there is replaced, what somebody listens on is not."""
    file = Path(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        if file.exists() and stat.S_ISSOCK(file.stat().st_mode) and not _is_answered(path):
            file.unlink()
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def unbind(address: Address) -> None:
    """Remove the file of a unix socket."""
    if address.path:
        with contextlib.suppress(OSError):
            Path(address.path).unlink()
