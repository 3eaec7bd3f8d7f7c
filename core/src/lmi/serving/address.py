# SPDX-License-Identifier: Apache-2.0
"""Where the server listens, decided and bound before anything slow happens."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from lmi.api.errors import ConfigError, Problem, Severity
from lmi.config import Settings
from lmi.config.server import ServerOptions
from lmi.container import SAFE_PORTS

_LOG = logging.getLogger(__name__)
_KEY = "inference_address"
_MANAGEMENT_KEY = "management_address"
_PEM_KEYS = ("private_key_file", "certificate_file")
_SAGEMAKER_PORT = "SAGEMAKER_BIND_TO_PORT"
_UNIX = "unix:"
_BACKLOG = 2048


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where requests are answered.

    Args:
        host, port: of a TCP socket; port 0 takes a free one.
        path: of a unix socket; then host and port say nothing.
        private_key_file, certificate_file: for https; None serves http.
        source: what asked for it, for messages.
    """

    host: str = "0.0.0.0"
    port: int = 8080
    path: str = ""
    private_key_file: str | None = None
    certificate_file: str | None = None
    source: str = "the default"

    def url(self, bound: socket.socket) -> str:
        """What clients on this machine call."""
        if self.path:
            return f"unix:{self.path}"
        host, port = bound.getsockname()[:2]
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"http{'s' if self.certificate_file else ''}://{shown}:{port}"


@dataclass(frozen=True, kw_only=True)
class SocketFile:
    """Which file a unix socket is; a later one at the same path is another one.

    Args:
        device, inode: of the file.
        made_ns: when it was made; file systems give the inode of a removed file to the next one.
    """

    device: int
    inode: int
    made_ns: int


# ------------------------------------------------------------------------------------------------------------- deciding


def wanted_address(
    options: ServerOptions,
    settings: Settings,
    environ: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
) -> Address:
    """The address that flags and variables ask for; what is asked for in vain is logged.

    The port is, highest first: the flag, what SageMaker says, that of ``inference_address``.

    Args:
        options: the server's.
        settings: where they were set.
        environ: read for SAGEMAKER_BIND_TO_PORT.
        host, port: of the command line.
    Raises:
        ConfigError: one of them is none.
    """
    asked = _asked(_KEY, options, settings)
    told = None if port is not None else _port_of_sagemaker(environ)
    reasons = {"--host": host, "--port": port, _SAGEMAKER_PORT: told}
    source = " and ".join(f"{name}={value}" for name, value in reasons.items() if value is not None)
    wanted = asked
    if source:
        chosen = next((each for each in (port, told) if each is not None), asked.port)
        wanted = replace(asked, path="", host=asked.host if host is None else host, port=chosen, source=source)
    for warning in _in_vain(options, settings, asked, wanted):
        _LOG.warning("%s", warning)
    return wanted


def management_address(
    options: ServerOptions, settings: Settings, safe_ports: tuple[int, int] | None = None
) -> Address | None:
    """Where models are managed; None: nowhere, or where requests are answered, as ``manages_here`` says.

    Args:
        options: the server's.
        settings: where they were set.
        safe_ports: the first and the last port that it may have; None: any.
    Raises:
        ConfigError: it is no address, or its port is another.
    """
    if options.management_address is None or manages_here(options):
        return None
    asked = _asked(_MANAGEMENT_KEY, options, settings)
    if safe_ports is not None and not asked.path and not safe_ports[0] <= asked.port <= safe_ports[1]:
        low, high = safe_ports
        raise ConfigError(
            "server.port-not-safe",
            f"{_MANAGEMENT_KEY}={options.management_address} ({asked.source}) has port {asked.port}, and "
            f"{SAFE_PORTS}={low}-{high}: others on this instance may listen there",
            (),
            f"Take a port from {low} to {high}, or a unix socket (unix:/run/lmi-management.sock)",
        )
    return asked


def manages_here(options: ServerOptions) -> bool:
    """Whether models are managed where requests are answered."""
    return options.management_address == options.inference_address


def _asked(key: str, options: ServerOptions, settings: Settings) -> Address:
    text = str(getattr(options, key))
    asked = _parsed(text, _source(settings, key), key)
    if not text.lower().startswith("https:"):
        return asked
    return replace(asked, private_key_file=options.private_key_file, certificate_file=options.certificate_file)


def _port_of_sagemaker(environ: Mapping[str, str]) -> int | None:
    told = environ.get(_SAGEMAKER_PORT, "").strip()
    if not told:
        return None
    if told.isdecimal() and 0 < int(told) < 65536:
        return int(told)
    raise ConfigError(
        "server.cannot-bind", f"{_SAGEMAKER_PORT}={told!r} is no port", (), "Give a number from 1 to 65535"
    )


def _in_vain(options: ServerOptions, settings: Settings, asked: Address, wanted: Address) -> Iterator[Problem]:
    if asked.path and not wanted.path:
        yield Problem(
            code="config.overruled",
            message=f"{_KEY}={options.inference_address} is not used: {wanted.source} asks for a port, and the server "
            f"listens on port {wanted.port} of {wanted.host}",
            hint=f"Remove {_KEY}, or, to listen on the unix socket, {wanted.source}",
            source=_source(settings, _KEY),
            severity=Severity.WARNING,
        )
    if wanted.certificate_file is None:
        for key in _PEM_KEYS:
            if (value := getattr(options, key)) is not None:
                yield Problem(
                    code="config.no-effect",
                    message=f"{key}={value} has no effect: {_KEY}={options.inference_address} is not https",
                    hint=f"Set {_KEY}=https://HOST:PORT, or remove it",
                    source=_source(settings, key),
                    severity=Severity.WARNING,
                )


def _source(settings: Settings, key: str) -> str:
    return settings[key].source if key in settings else "the default"


def _parsed(text: str, source: str, key: str) -> Address:
    if text.lower().startswith(_UNIX) and len(text) > len(_UNIX):
        return Address(path=text[len(_UNIX) :].removeprefix("//"), source=source)
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme.lower() in ("http", "https") and parts.hostname and parts.path in ("", "/"):
            default = 8443 if parts.scheme.lower() == "https" else 8080
            return Address(host=parts.hostname, port=default if parts.port is None else parts.port, source=source)
    raise ConfigError(
        "config.invalid-value",
        f"{key}={text} ({source}) is no address",
        (),
        "Write it like http://0.0.0.0:8080, https://0.0.0.0:8443 or unix:/run/lmi.sock",
    )


# -------------------------------------------------------------------------------------------------------------- binding


def bind(address: Address) -> socket.socket:
    """Take the address, and see that its files for https can be used.

    Raises:
        ConfigError: it is taken, not allowed or none; or the key and the certificate do not do.
    """
    _check_pem(address)
    try:
        return _bind_unix(address.path) if address.path else _bind_tcp(address.host, address.port)
    # A name that is none (an empty label, a NUL) is a ValueError or TypeError, a number that is none an OverflowError.
    except (OSError, OverflowError, ValueError, TypeError) as error:
        what = repr(address.path) if address.path else f"port {address.port} of {address.host!r}"
        is_number = isinstance(error, OSError) and not isinstance(error, socket.gaierror)
        flag = "--port" if is_number or isinstance(error, OverflowError) else "--host"
        raise ConfigError(
            "server.cannot-bind",
            f"{what} ({address.source}) cannot be used: {error}",
            (),
            f"Choose another {_KEY}" if address.path else f"Choose another {_KEY} or {flag}",
        ) from error


def _check_pem(address: Address) -> None:
    """Read both files as the server will, which would fail only when it serves.

    Raises:
        ConfigError: they cannot be used.
    """
    if address.certificate_file is None:
        return
    try:
        chain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chain.load_cert_chain(address.certificate_file, address.private_key_file, _no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            "server.cannot-bind",
            f"private_key_file={address.private_key_file} with certificate_file={address.certificate_file} cannot be "
            f"used for https: {_pem_reason(address, error)}",
            (),
            "Give a private key without password and the certificate made for it, both PEM",
        ) from error


def _no_password() -> str:
    """Asked for a key that is encrypted; without this, the terminal would be."""
    raise ValueError("the private key is encrypted")


def _pem_reason(address: Address, error: Exception) -> str:
    """Which of the two it is, where that can be told; the library does not name a file."""
    for key in _PEM_KEYS:
        try:
            with Path(getattr(address, key)).open("rb"):
                pass
        except (OSError, ValueError) as own:
            return f"{key}: {own.strerror if isinstance(own, OSError) else own}"
    if not isinstance(error, ssl.SSLError):
        return str(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the certificate was made for another key"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(address.certificate_file)
    except ssl.SSLError:
        return "certificate_file holds no certificate in PEM"
    return str(error) if error.reason else "private_key_file holds no private key in PEM"


@contextlib.contextmanager
def _closed_on_error(made: socket.socket) -> Iterator[socket.socket]:
    try:
        yield made
    except BaseException:
        made.close()
        raise


def _bind_tcp(host: str, port: int) -> socket.socket:
    """As ``socket.create_server`` does, which leaves its socket open where the host is no name at all."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with _closed_on_error(socket.socket(family)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        return listener


def _bind_unix(path: str) -> socket.socket:
    """A unix socket; what a server that died has left there is replaced, what somebody listens on is not."""
    if "\0" in path:  # the system would listen on what comes before it
        raise ValueError("embedded null character")
    file = Path(path)
    if file.exists() and stat.S_ISSOCK(file.stat().st_mode) and _is_left_behind(path):
        file.unlink()
    with _closed_on_error(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path)
        listener.listen(_BACKLOG)
        return listener


def _is_left_behind(path: str) -> bool:
    """Whether nobody listens there; one who is too busy to answer, or may not be asked, does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def socket_file(address: Address) -> SocketFile | None:
    """Which file a bound unix socket is; None for a TCP socket, or where somebody has removed it."""
    if not address.path:
        return None
    try:
        found = os.lstat(address.path)
    except OSError:
        return None
    return SocketFile(device=found.st_dev, inode=found.st_ino, made_ns=found.st_mtime_ns)


def unbind(address: Address, own: SocketFile | None) -> None:
    """Remove the file of a unix socket, unless another server has its own there by now.

    Args:
        address: what was bound.
        own: what ``socket_file`` said while it was listened on.
    """
    if own is not None and socket_file(address) == own:
        with contextlib.suppress(OSError):
            Path(address.path).unlink()
