# SPDX-License-Identifier: Apache-2.0
"""Configuration: text from files, variables and flags, with its provenance; then typed options."""

from lmi.config.options import ModelOptions
from lmi.config.settings import Setting, Settings
from lmi.config.sources import read_settings
from lmi.config.typed import Parsed, parse

__all__ = ["ModelOptions", "Parsed", "Setting", "Settings", "parse", "read_settings"]
