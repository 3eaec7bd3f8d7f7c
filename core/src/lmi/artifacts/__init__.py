# SPDX-License-Identifier: Apache-2.0
"""A model's files: where they are, what they are, and what is wrong with them before a weight is read."""

from lmi.artifacts.checks import check
from lmi.artifacts.formats import detect
from lmi.artifacts.location import exists, is_folder, is_local, locate, model_root, refused_location
from lmi.artifacts.objects import is_object_url, read_object

__all__ = [
    "check",
    "detect",
    "exists",
    "is_folder",
    "is_local",
    "is_object_url",
    "locate",
    "model_root",
    "read_object",
    "refused_location",
]
