# SPDX-License-Identifier: Apache-2.0
"""One request as a ``handle`` function sees it."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Callable
from typing import Any

from djl_python.np_util import from_nd_list
from djl_python.pair_list import PairList


class NotJsonError(json.JSONDecodeError):
    """The content of a request is not the JSON that a function wanted; left alone, its caller gets a 400."""


class Input:
    """Content and properties of one request; the first one, at load, has no content.

    ``properties`` are the model's options (with and without ``option.``) and the request's headers; ``content`` holds
    the body under ``data``, query parameters and form fields under their names.
    """

    def __init__(self) -> None:
        self.function_name: str | None = None
        self.properties: dict[str, str] = {}
        self.content = PairList()

    def __str__(self) -> str:
        return f"Input(properties={sorted(self.properties)}, content={self.content.get_keys()})"

    # ---------------------------------------------------------------------------------------------------- properties

    def get_function_name(self) -> str | None:
        return self.function_name

    def get_properties(self) -> dict[str, str]:
        return self.properties

    def get_property(self, key: str) -> str | None:
        """The value of a property, whatever the case of its name; None where there is none."""
        lower = key.lower()
        return next((value for name, value in self.properties.items() if name.lower() == lower), None)

    # ------------------------------------------------------------------------------------------------------- batches

    def is_batch(self) -> bool:
        return "batch_size" in self.properties

    def get_batch_size(self) -> int:
        return int(self.properties.get("batch_size", "1"))

    def get_batches(self) -> list[Input]:
        """The requests that came together; here always one."""
        return [self]

    # ------------------------------------------------------------------------------------------------------- content

    def get_content(self) -> PairList:
        return self.content

    def is_empty(self) -> bool:
        """True for the call at load, and for a request without a body."""
        return self.content.is_empty()

    def contains_key(self, key: str) -> bool:
        return self.content.get(key) is not None

    def get_data(self, key: str | None = None) -> Any:
        """The content as its ``content-type`` says: decoded JSON, text, an image, arrays or bytes; None if empty."""
        if self.content.is_empty():
            return None
        content_type = (self.get_property("content-type") or "").lower()
        read = next((read for prefix, read in _READERS.items() if content_type.startswith(prefix)), Input.get_as_bytes)
        return read(self, key)

    def get_as_bytes(self, key: str | None = None) -> Any:
        """The bytes under ``key``; without a key those under ``data``, else the first there are, else None.

        Raises:
            KeyError: there is nothing under this key.
        """
        if self.content.is_empty():
            return None
        if key:
            value = self.content.get(key)
            if value is None:
                known = ", ".join(str(each) for each in self.content.get_keys())
                raise KeyError(f"the request has no content '{key}', only: {known}")
            return value
        value = self.content.get("data")
        return self.content.value_at(0) if value is None else value

    def get_as_string(self, key: str | None = None) -> str:
        """The content as UTF-8 text; "" where there is none."""
        return bytes(self.get_as_bytes(key) or b"").decode("utf-8")

    def get_as_json(self, key: str | None = None) -> Any:
        """The decoded JSON.

        Raises:
            NotJsonError: it is no JSON, or there is none.
        """
        try:
            return json.loads(self.get_as_string(key))
        except json.JSONDecodeError as error:
            raise NotJsonError(error.msg, error.doc, error.pos) from None
        except UnicodeDecodeError as error:
            raise NotJsonError(f"not UTF-8: {error.reason}", "", error.start) from None

    def get_as_image(self, key: str | None = None) -> Any:
        """A PIL image; needs pillow."""
        image = importlib.import_module("PIL.Image")  # not of LMI's dependencies
        return image.open(io.BytesIO(self.get_as_bytes(key)))

    def get_as_numpy(self, key: str | None = None) -> list[Any]:
        """The arrays of an NDList, npz or npy content."""
        return from_nd_list(self.get_as_bytes(key))

    def get_as_npz(self, key: str | None = None) -> list[Any]:
        """The arrays of an npz file, in its order."""
        import numpy as np

        with np.load(io.BytesIO(self.get_as_bytes(key))) as archive:
            return [archive[name] for name in archive.files]

    def get_as_csv(self, key: str | None = None) -> list[dict[str, str]]:
        """The rows of a table with a header, as dictionaries."""
        return list(csv.DictReader(io.StringIO(self.get_as_string(key))))


_READERS: dict[str, Callable[[Input, str | None], Any]] = {
    "tensor/ndlist": Input.get_as_numpy,
    "tensor/npz": Input.get_as_npz,
    "application/json": Input.get_as_json,
    "text/": Input.get_as_string,
    "image/": Input.get_as_image,
}
