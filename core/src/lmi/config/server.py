# SPDX-License-Identifier: Apache-2.0
"""What holds for the whole server: config.properties, ``SERVING_*`` and flags of the command line.

Source: the global configuration of DJL Serving, 0.26 and 0.27.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from lmi.api import ConfigError, Problem, Severity, option
from lmi.config import names
from lmi.config.properties import read_properties
from lmi.config.settings import Setting, Settings
from lmi.config.typed import config_error, fill

FILE_NAME = "config.properties"
CONFIG_FILES = ("${MODEL_SERVER_HOME}/conf/config.properties", "/opt/djl/conf/config.properties")
"""Where config.properties is looked for when none is named; the first that is there holds."""

_VARIABLE = "SERVING_"
_TOKEN_VARIABLE = "LMI_DIAGNOSTICS_TOKEN"


class ServerOptions(BaseModel):
    """Options of the server, not of one model. An address is ``http://HOST:PORT``, ``https://…`` or ``unix:/path``."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    inference_address: str = option(
        "http://0.0.0.0:8080",
        description="Where requests are answered: http://HOST:PORT, https://HOST:PORT (with private_key_file and "
        "certificate_file) or unix:/path.",
    )
    management_address: str | None = option(
        None,
        description="Where models are loaded, scaled and unloaded while the server runs: http://127.0.0.1:8081, "
        "unix:/path, or the same as inference_address. Unset: nowhere. Whoever reaches it can load any model.",
    )
    private_key_file: str | None = option(None, description="Private key for https, PEM.")
    certificate_file: str | None = option(None, description="Certificate, with its chain, for https, PEM.")
    load_models: str | None = option(
        None,
        description="Models to load at the start: [NAME[:VERSION[:ENGINE[:DEVICES]]]]=URL, separated by commas or "
        "blanks; ALL takes every model in model_store, NONE loads nothing.",
    )
    model_store: str | None = option(
        None, description="Folder of models, or of one model. Unset: the container's model folder, /opt/ml/model."
    )
    model_url_pattern: str | None = option(
        None, description="Regular expression that the URL of every model must match as a whole."
    )
    wait_model_loading: bool = option(
        True, description="Whether /ping answers 503 until all models are loaded; otherwise it answers 200 meanwhile."
    )
    allow_multi_status: bool = option(
        False, description="Whether /ping answers 207 instead of 200 while a model loads and wait_model_loading is off."
    )
    cors_allowed_origin: str | None = option(None, description="Origin that browsers may call from, or *. Unset: none.")
    cors_allowed_methods: str | None = option(None, description="Methods that such a page may use, a,b,c. Unset: all.")
    cors_allowed_headers: str | None = option(None, description="Headers that such a page may send, a,b,c. Unset: all.")
    metrics_log: Literal["auto", "emf", "none"] = option(
        "auto",
        description="Whether metrics are written to standard output, too, as lines that CloudWatch makes metrics of: "
        "emf, none, or auto, which writes them on SageMaker.",
    )
    metrics_namespace: str = option(
        "LMI",
        description="CloudWatch's namespace of those metrics.",
        pattern=r"^[A-Za-z0-9._#/-][A-Za-z0-9._#:/-]{0,254}$",
    )
    metrics_log_interval: float = option(
        60, description="Time between two such lines of a model.", unit="s", ge=1, le=3600
    )
    diagnostics_token: str | None = option(
        None,
        description="Who sends it in a request for diagnostics gets them; 16 characters or more, nobody else's. Unset: "
        "there are none. LMI_DIAGNOSTICS_TOKEN sets it, too.",
        min_length=16,
    )

    @model_validator(mode="after")
    def _keys_for_https(self) -> ServerOptions:
        if (self.private_key_file is None) is not (self.certificate_file is None):
            raise ValueError("private_key_file and certificate_file go together, and only one of them is set")
        if self.inference_address.lower().startswith("https:") and self.certificate_file is None:
            raise ValueError("inference_address is https, and there is no private_key_file with its certificate_file")
        return self

    @model_validator(mode="after")
    def _namespace_of_ones_own(self) -> ServerOptions:
        if self.metrics_namespace.startswith("AWS/"):
            raise ValueError("metrics_namespace begins with AWS/, which is Amazon's own: CloudWatch refuses it")
        return self


OF_NO_USE = {
    "number_of_netty_threads": "one event loop serves all connections",
    "chunked_read_timeout": "a body may take as long as its connection lives",
    "plugin_folder": "plugins are Python distributions; lmi plugins lists them",
    "keystore_type": "only PEM files are read",
    "prometheus": "/metrics is always there",
    "job_queue_size_threshold": "job_queue_size is the limit",
}
"""Keys that have nothing left to do here, and why; setting one is worth a warning."""

NOT_SUPPORTED = {
    "keystore": "Convert it (openssl pkcs12 -in FILE -nodes) and set private_key_file and certificate_file",
    "keystore_pass": "Set private_key_file and certificate_file",
    "error_rate_wlm": "Set an alarm on the counters of /metrics",
    "error_rate_server": "Set an alarm on the counters of /metrics",
    "error_rate_model": "Set an alarm on the counters of /metrics",
    "error_rate_any": "Set an alarm on the counters of /metrics",
    "bad_request_http_code": "Clients get 400",
    "wlm_error_http_code": "Clients get 503, and 429 where the queue is full",
    "throttle_error_http_code": "Clients get 429",
    "timeout_http_code": "Clients get 504",
    "server_error_http_code": "Clients get 500",
    "request_id_header_key": "The header is x-request-id",
    "cluster_address": "One server runs on one machine; start one a machine behind a load balancer",
}
"""Keys whose effect nobody gets here, and what there is in their place; setting one stops the start."""


def read_server_settings(
    environ: Mapping[str, str], *, config_file: Path | None = None, flags: Mapping[str, str] | None = None
) -> Settings:
    """The server's settings, and the plain keys that are every model's defaults, from all layers.

    Layers, highest first: ``SERVING_*``, the command line, config.properties.

    Args:
        environ: environment variables.
        config_file: config.properties; None takes the first of CONFIG_FILES that exists.
        flags: key -> value of flags on the command line.
    """
    path = config_file or _found(environ)
    layers: list[Setting] = []
    problems: list[Problem] = []
    if path is not None:
        content = read_properties(path)
        problems += content.problems
        layers += [
            Setting(names.canonical(line.key), line.value, line.source, written=line.key)
            for line in content.lines
            if line.value
        ]
    layers += [Setting(key, value, "command line") for key, value in (flags or {}).items()]
    layers += _from_variables(environ)
    return Settings(layers, problems)


def server_options(settings: Settings) -> tuple[ServerOptions, list[Problem]]:
    """The typed options, and what to warn about.

    Raises:
        ConfigError: with every problem.
    """
    problems = [*settings.problems, *_judged(settings)]
    options, found = fill(ServerOptions, settings)
    problems += found
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors or options is None:
        raise config_error(errors)
    return options, problems


def defaults_of_models(settings: Settings) -> list[Setting]:
    """The plain keys of config.properties; those of variables are read with each model's own settings."""
    return [each for each in settings.values() if each.key in names.PLAIN_KEYS and not _is_variable(each)]


def _found(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("MODEL_SERVER_HOME", "")
    for text in CONFIG_FILES:
        if "$" in text and not home:
            continue
        path = Path(text.replace("${MODEL_SERVER_HOME}", home))
        if path.is_absolute() and path.is_file():
            return path
    return None


def _is_variable(setting: Setting) -> bool:
    return setting.source.startswith(_VARIABLE)


def _from_variables(environ: Mapping[str, str]) -> Iterator[Setting]:
    """SERVING_* that are keys of the server, or look like one that is misspelt; and the token of diagnostics."""
    if token := environ.get(_TOKEN_VARIABLE, "").strip():
        yield Setting("diagnostics_token", token, _TOKEN_VARIABLE, written=_TOKEN_VARIABLE)
    for variable in sorted(environ):
        value = environ[variable].strip()
        if variable.startswith(_VARIABLE) and value:
            yield Setting(names.from_variable(variable.removeprefix(_VARIABLE)), value, variable, written=variable)


def _judged(settings: Settings) -> Iterator[Problem]:
    known = {*names.SERVER_KEYS, *names.PLAIN_KEYS}
    for setting in settings.values():
        key = setting.key.removeprefix(names.PREFIX)
        if key in OF_NO_USE:
            yield _problem("config.of-no-use", setting, f"has no effect: {OF_NO_USE[key]}", "Remove it", is_error=False)
        elif key in NOT_SUPPORTED:
            yield _problem("config.not-supported", setting, "is not supported", NOT_SUPPORTED[key])
        elif key not in known and not _is_variable(setting):
            hint = names.did_you_mean(key, known, f"The keys are: {', '.join(sorted(known))}")
            yield _problem("config.unknown-key", setting, "is not a key of the server", hint)
        elif key not in known and (near := names.nearly(key, known)):
            # Others set SERVING_* too (an orchestrator, for a service called "serving"): only likely mistakes are told.
            hint = f"Did you mean '{_VARIABLE}{near.upper()}'?"
            yield _problem("config.unknown-key", setting, "is not a key of the server", hint, is_error=False)


def _problem(code: str, setting: Setting, reason: str, hint: str, *, is_error: bool = True) -> Problem:
    shown_key = setting.source if _is_variable(setting) else setting.written or setting.key
    return Problem(
        code=code,
        message=f"'{shown_key}' is {setting.shown!r}; it {reason}",
        hint=hint,
        source=setting.source,
        severity=Severity.ERROR if is_error else Severity.WARNING,
    )


def named_file(text: str | None) -> Path | None:
    """The config.properties that a flag names.

    Raises:
        ConfigError: it is not there.
    """
    if text is None or Path(text).is_file():
        return None if text is None else Path(text)
    raise ConfigError("config.unreadable", f"there is no file '{text}'", (), "Correct --config-file, or leave it out")
