# SPDX-License-Identifier: Apache-2.0
"""What core/src/lmi/plugins/known.json says of this project's backends, as they say it themselves.

``python -m tests.backends.known_backends`` writes the file anew, with every package of this project installed.
"""

import json
from enum import Enum
from pathlib import Path

from lmi.api import BackendInfo
from lmi.plugins import Plugins

FILE = Path(__file__).parents[2] / "core/src/lmi/plugins/known.json"
FIELDS = (
    "name", "accelerators", "needs_model", "artifact_formats", "architectures", "tasks", "needs_compile",
    "is_loadable", "instances", "image", "install", "priority",
)  # fmt: skip
"""Of BackendInfo, what ranking a backend that is not installed takes."""


def described(info: BackendInfo) -> dict[str, object]:
    """Those fields that are not the default."""
    values = {name: getattr(info, name) for name in FIELDS}
    default = BackendInfo(name="", summary="")
    kept = {name: value for name, value in values.items() if name == "accelerators" or value != getattr(default, name)}
    return {name: _plain(value) for name, value in kept.items()}


def by_package() -> dict[str, list[dict[str, object]]]:
    """Distribution -> its backends, as they describe themselves."""
    found: dict[str, list[dict[str, object]]] = {}
    for record in Plugins.discover({}).records:
        if record.info is not None:
            found.setdefault(record.distribution, []).append(described(record.info))
    return found


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [each.value if isinstance(each, Enum) else each for each in value]
    return value


def _text(table: dict[str, object]) -> str:
    """Lists of plain values on one line, everything else indented."""
    return _laid_out(table, "") + "\n"


def _laid_out(value: object, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(key)}: {_laid_out(each, inner)}" for key, each in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return "[\n" + ",\n".join(inner + _laid_out(each, inner) for each in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    table = json.loads(FILE.read_text("utf-8"))
    found = by_package()
    for entry in table["packages"]:
        entry["backends"] = found[entry["package"]]
    FILE.write_text(_text(table), "utf-8")


if __name__ == "__main__":
    main()
