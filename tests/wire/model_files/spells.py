# SPDX-License-Identifier: Apache-2.0
"""Takes hyphens out of the text."""

from lmi.api import hookimpl


@hookimpl
def lmi_filter_text(text):
    return text.replace("-", "")
