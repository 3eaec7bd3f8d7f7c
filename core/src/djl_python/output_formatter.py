# SPDX-License-Identifier: Apache-2.0
"""The mark of a custom output formatter, and what its function gets."""

from __future__ import annotations

from typing import Any, TypeVar

from djl_python.request_io import RequestOutput, Sequence, TextGenerationOutput, TextInput, Token

_F = TypeVar("_F")

__all__ = ["RequestOutput", "Sequence", "TextGenerationOutput", "TextInput", "Token", "output_formatter"]


def output_formatter(function: _F) -> _F:
    """Mark a function of a ``model.py`` as the one that writes the answers of this model."""
    marked: Any = function
    marked.is_output_formatter = True
    return function
