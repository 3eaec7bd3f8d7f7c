# SPDX-License-Identifier: Apache-2.0
"""A model's files: where they are, what they are, and what is wrong with them before a weight is read."""

from lmi.artifacts.checks import check
from lmi.artifacts.formats import detect
from lmi.artifacts.leftovers import wanted_files
from lmi.artifacts.places.finding import NotFetchedError, fetched, place_of
from lmi.artifacts.places.location import exists, is_folder, is_local, model_root, refused_location
from lmi.artifacts.places.objects import is_object_url, read_object

__all__ = [
    "NotFetchedError",
    "check",
    "detect",
    "exists",
    "fetched",
    "is_folder",
    "is_local",
    "is_object_url",
    "model_root",
    "place_of",
    "read_object",
    "refused_location",
    "wanted_files",
]
