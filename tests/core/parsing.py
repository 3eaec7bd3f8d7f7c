# SPDX-License-Identifier: Apache-2.0
"""Typing a few settings for a backend that is not installed."""

from lmi.api import BackendConfig, BackendInfo, ConfigError
from lmi.config import parse, read_settings

ACME = BackendInfo(name="acme", summary="", async_entry_points=("pack.async",))


def parsed(text="", info=ACME, config_type=BackendConfig, environ=(), others=(), **kinds):
    flags = dict(pair.split("=", 1) for pair in text.split())
    settings = read_settings(model_folder=None, environ=dict(environ), flags=flags)
    return parse(settings, info, config_type, dict(others), **kinds)


def said(text, info=ACME, config_type=BackendConfig, **more):
    """Every error, or every warning where there is none."""
    try:
        return parsed(text, info, config_type, **more).warnings
    except ConfigError as error:
        return error.problems


def only(text, info=ACME, **more):
    (problem,) = said(text, info, **more)
    return problem
