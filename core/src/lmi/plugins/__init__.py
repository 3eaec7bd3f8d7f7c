# SPDX-License-Identifier: Apache-2.0
"""Plugins: found by entry point, each loaded apart from the others, chosen by what they say of themselves."""

from lmi.plugins.choice import Choice
from lmi.plugins.records import Kind, PluginRecord, State
from lmi.plugins.registry import Plugins

__all__ = ["Choice", "Kind", "PluginRecord", "Plugins", "State"]
