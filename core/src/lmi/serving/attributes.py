# SPDX-License-Identifier: Apache-2.0
"""``X-Amzn-SageMaker-Custom-Attributes``: what a caller of an endpoint can say beside the body, as ``key=value;…``."""

from __future__ import annotations

from collections.abc import Mapping

HEADER = "x-amzn-sagemaker-custom-attributes"


def attribute(headers: Mapping[str, str], name: str) -> str:
    """One of the attributes; empty where it is not there.

    Args:
        headers: names in lower case.
        name: of the attribute.
    """
    text = headers.get(HEADER)
    if not text:
        return ""
    pairs = (each.partition("=") for each in text.split(";") if each)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
