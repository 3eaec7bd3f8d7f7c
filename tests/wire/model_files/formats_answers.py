# SPDX-License-Identifier: Apache-2.0
"""A formatter that changes the answer."""

from djl_python.output_formatter import output_formatter


@output_formatter
def add(response_data: dict) -> dict:
    return {**response_data, "seen": True}
