# SPDX-License-Identifier: Apache-2.0
"""Wheels: little ones written for a test in a moment, and what is in those of the workspace."""

from __future__ import annotations

import base64
import hashlib
import textwrap
import zipfile
from collections.abc import Sequence
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from functools import cached_property
from pathlib import Path

from packaging.requirements import Requirement


def write_wheel(
    folder: Path,
    distribution: str,
    code: str,
    *,
    group: str = "lmi.backends",
    name: str,
    version: str = "1.0",
    requires: Sequence[str] = (),
) -> Path:
    """A wheel that pip installs: one module with the code, and one entry point that names it.

    Args:
        folder: made if it is not there.
        distribution: its name; the module is called the same, with underscores.
        code: of the module.
        group: of the entry point.
        name: of the entry point.
        version: of the distribution.
        requires: requirements on other distributions.
    """
    module = distribution.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"]
    files = {
        f"{module}.py": textwrap.dedent(code),
        f"{info}/METADATA": "".join([*metadata, *(f"Requires-Dist: {each}\n" for each in requires)]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[{group}]\n{name} = {module}\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Wheel:
    """What a wheel says of itself, and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.files = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
        (self.info_folder,) = {name.partition("/")[0] for name in self.files if ".dist-info/" in name}

    @cached_property
    def metadata(self) -> Message:
        return Parser().parsestr(self.files[f"{self.info_folder}/METADATA"].decode())

    @cached_property
    def name(self) -> str:
        return str(self.metadata["Name"])

    @cached_property
    def packages(self) -> set[str]:
        """Its import names."""
        return {name.partition("/")[0] for name in self.files} - {self.info_folder}

    @cached_property
    def entry_points(self) -> dict[str, dict[str, str]]:
        """Group -> name -> value."""
        parser = ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
        parser.read_string(self.files[f"{self.info_folder}/entry_points.txt"].decode())
        return {group: dict(parser[group]) for group in parser.sections()}

    def requirements(self, extra: str | None = None) -> dict[str, Requirement]:
        """What is always needed, or what this extra adds, by name."""
        found = {}
        for text in self.metadata.get_all("Requires-Dist", []):
            requirement = Requirement(text)
            is_always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            is_added = requirement.marker is not None and requirement.marker.evaluate({"extra": extra or ""})
            if is_always if extra is None else (is_added and not is_always):
                found[requirement.name] = requirement
        return found
