# SPDX-License-Identifier: Apache-2.0
"""The environment of an endpoint made for another server, read and rewritten as a configuration of LMI."""

from lmi.imports.environment import read_environment
from lmi.imports.outcome import Fate, Outcome, Translation
from lmi.imports.tables import ServerTable, recognise, server_names, table_of
from lmi.imports.translate import translate
from lmi.imports.write import as_properties, as_variables

__all__ = [
    "Fate",
    "Outcome",
    "ServerTable",
    "Translation",
    "as_properties",
    "as_variables",
    "read_environment",
    "recognise",
    "server_names",
    "table_of",
    "translate",
]
