# SPDX-License-Identifier: Apache-2.0
"""Print what extras of this repository's packages ask of other packages: ``requirements_of.py lmi-hf[engine] ...``.

To be called in the repository's root. An image installs engines before LMI, so that a new LMI is one small layer and
the engines' layers stay as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import tomllib

OWN = {
    table["project"]["name"]: table["project"].get("optional-dependencies", {})
    for file in [Path("core/pyproject.toml"), *Path("plugins").glob("*/pyproject.toml")]
    for table in [tomllib.loads(file.read_text("utf-8"))]
}
"""Name of a package -> its extras."""


def requirements(wanted: str) -> Iterator[str]:
    """What ``NAME[EXTRA,...]`` asks of packages that are not this repository's."""
    name, _, extras = re.split(r"[<>=!~;@]", wanted)[0].strip().rstrip("]").partition("[")
    if name not in OWN:
        yield wanted
        return
    for extra in filter(None, extras.split(",")):
        for each in OWN[name][extra]:
            yield from requirements(each)


if __name__ == "__main__":
    print("\n".join(dict.fromkeys(each for wanted in sys.argv[1:] for each in requirements(wanted))))
