# SPDX-License-Identifier: Apache-2.0
"""A hook that does not exist."""

from lmi.api import hookimpl


@hookimpl  # fmt: skip
def lmi_filter_txt(text):
    return text
