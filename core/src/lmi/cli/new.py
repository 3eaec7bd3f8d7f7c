# SPDX-License-Identifier: Apache-2.0
"""``lmi new``: the project of a new backend, which installs, serves and keeps the contract as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import click

from lmi.api import RequestError

SCAFFOLD = Path(__file__).parents[1] / "scaffold"
"""Complete projects of a backend called acme; only the name is changed."""

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


@click.command()
@click.argument("name")
@click.option("--stepper", is_flag=True, help="For a library that has no scheduler: the core batches and samples.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=None, help="Where to write.  [default: ./lmi-NAME]"
)  # fmt: skip
def new(name: str, stepper: bool, folder: Path | None) -> None:
    """Write the project of a backend called NAME."""
    path = write_project(name, folder or Path(f"lmi-{name}"), kind="stepper" if stepper else "engine")
    start = "stepper.py" if stepper else "engine.py"
    does = "makes up its logits" if stepper else "repeats what it is told"
    click.echo(
        f"Wrote {path}. It works as it stands: it {does}. Look at it first:\n"
        f"  cd {path}\n"
        "  pip install -e '.[engine,test]'\n"
        f"  lmi serve -o rolling_batch={name}\n"
        f"  lmi contract {name}\n"
        f"Then put your library into src/{_module(name)}/{start}, and run the contract again."
    )


def write_project(name: str, folder: Path, *, kind: str) -> Path:
    """Write the files.

    Args:
        name: of the backend: lower-case letters, digits, - and _.
        folder: must not exist, or be empty.
        kind: ``engine`` or ``stepper``.
    Raises:
        RequestError: the name is no name, or the folder holds something.
    """
    if not _NAME.fullmatch(name):
        text = f"{name!r} cannot name a backend"
        raise RequestError("new.bad-name", text, "Use lower-case letters, digits, - and _, a letter first: my-engine")
    if folder.exists() and any(folder.iterdir()):
        raise RequestError("new.folder-not-empty", f"{folder} holds files already", "Say another --folder")
    for part in (SCAFFOLD / "shared", SCAFFOLD / kind):
        for source in sorted(path for path in part.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            target = folder / renamed(source.relative_to(part).as_posix(), name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(renamed(source.read_text("utf-8"), name), "utf-8")
    return folder


def renamed(text: str, name: str) -> str:
    """A text of the scaffold with this backend's name for acme's, in every way it is written."""
    camel = "".join(part.capitalize() for part in re.split("[_-]", name))
    written = {"lmi_acme": _module(name), "Acme": camel, "acme": name}
    # In one pass: the new name may hold the old one.
    return re.sub("lmi_acme|Acme|acme", lambda found: written[found[0]], text)


def _module(name: str) -> str:
    return f"lmi_{name.replace('-', '_')}"
