# SPDX-License-Identifier: Apache-2.0
"""A Dockerfile, read; and built without Docker: its steps run in a folder that is the root of their file system."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = re.compile(r"(HTTPS?|NO)_PROXY$", re.IGNORECASE)
_CERTIFICATES = "/run/certificates.pem"


@dataclass
class Stage:
    """What comes of the steps from one FROM to the next.

    Args:
        name: by which later stages call it; else its number.
        parent: the name of the stage, or of the image, that it starts from.
        steps: instruction and value of each line.
    """

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)


class Dockerfile:
    """One file.

    Args:
        path: of it; its context is the repository.
        arguments: of ``--build-arg``.
    """

    def __init__(self, path: Path, arguments: Mapping[str, str] | None = None) -> None:
        self.path = path
        parsed = DockerfileParser(fileobj=io.BytesIO(path.read_bytes()), cache_content=True)
        self.stages: list[Stage] = []
        self.arguments: dict[str, str] = {}
        given = dict(arguments or {})
        for each in parsed.structure:
            name, value = each["instruction"], each["value"]
            if name == "COMMENT":
                continue
            if name == "ARG":
                key, _, default = value.partition("=")
                self.arguments[key] = given.get(key, "".join(shlex.split(default)))
            if name == "FROM":
                words = _filled(value, self.arguments).split()
                self.stages.append(Stage(words[2] if len(words) > 1 else str(len(self.stages)), words[0]))
            elif self.stages:
                self.stages[-1].steps.append((name, value))
        assert set(given) <= set(self.arguments), f"no ARG of {path}: {set(given) - set(self.arguments)}"

    def values(self, instruction: str) -> list[str]:
        """What an instruction is given in the image itself, and in the stages of this file that it starts from."""
        found, name = list[str](), self.stages[-1].name
        while stage := next((each for each in self.stages if each.name == name), None):
            found = [value for key, value in stage.steps if key == instruction] + found
            name = stage.parent
        return found

    def pairs(self, instruction: str) -> dict[str, str]:
        """``KEY=VALUE`` of all ENV or LABEL."""
        return {key: text for value in self.values(instruction) for key, text in self.split(value).items()}

    @staticmethod
    def split(value: str) -> dict[str, str]:
        """``KEY=VALUE KEY=VALUE``, as a dictionary."""
        return dict(word.split("=", 1) for word in shlex.split(value))

    def words(self, instruction: str) -> list[str]:
        """ENTRYPOINT or CMD, in their exec form."""
        found: list[str] = json.loads(self.values(instruction)[-1])
        return found

    def copies(self) -> Iterator[tuple[list[str], str]]:
        """What each COPY takes from the repository, and where it puts that."""
        for stage in self.stages:
            for name, value in stage.steps:
                *sources, target = value.split()
                if name == "COPY" and not value.startswith("--"):
                    yield sources, target


class Build:
    """The file systems of a Dockerfile's stages, made one after another.

    Args:
        file: the Dockerfile.
        folder: below which they are made.
        bases: name of an image -> the folder that has its files.
    """

    def __init__(self, file: Dockerfile, folder: Path, bases: Mapping[str, Path]) -> None:
        self._file, self._folder, self._roots = file, folder, dict(bases)

    def run(self) -> Path:
        """The image's file system."""
        for stage in self._file.stages:
            root = self._folder / stage.name
            subprocess.run(["cp", "-a", "--reflink=auto", self._roots[stage.parent], root], check=True)
            self._roots[stage.name] = root
            given = {key: value for key, value in self._file.arguments.items() if value}
            environ, place = {"PATH": PATH, "HOME": "/root", **pip_environ(), **given}, "/"
            for name, value in stage.steps:
                print(f"{stage.name}: {name} {value}", file=sys.stderr, flush=True)
                if name == "RUN":
                    self._run(root, value, environ, place)
                elif name == "ENV":
                    environ |= {key: _filled(text, environ) for key, text in Dockerfile.split(value).items()}
                elif name == "COPY":
                    self._copy(root, value, place)
                elif name == "WORKDIR":
                    place = value
                    (root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
        return self._roots[self._file.stages[-1].name]

    def _run(self, root: Path, value: str, environ: Mapping[str, str], place: str) -> None:
        mounts = []
        while value.startswith("--mount="):
            option, _, value = value.partition(" ")
            pairs = dict(part.split("=") for part in option.removeprefix("--mount=").split(","))
            assert pairs["type"] == "bind"
            mounts.append((self._roots[pairs["from"]] / pairs["source"].lstrip("/"), pairs["target"]))
        command = within(root, ["sh", "-c", f"cd {place} && {value}"], environ, [*mounts, *of_pip()])
        subprocess.run(command, check=True)

    def _copy(self, root: Path, value: str, place: str) -> None:
        *sources, target = value.split()
        origin = ROOT
        if sources[0].startswith("--from="):
            origin = self._roots[sources.pop(0).removeprefix("--from=")]
        into = root / os.path.normpath(f"{place}/{target}" if target[0] != "/" else target).lstrip("/")
        for source in (origin / each.lstrip("/") for each in sources):
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "dist", "build")
                shutil.copytree(source, into, dirs_exist_ok=True, symlinks=True, ignore=ignored)
            else:
                is_folder = target.endswith("/") or into.is_dir()
                (into if is_folder else into.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy(source, into / source.name if is_folder else into)


def within(
    root: Path,
    command: Sequence[str],
    environ: Mapping[str, str],
    mounts: Sequence[tuple[Path, str]] = (),
    *,
    has_network: bool = True,
) -> list[str]:
    """The words of a command that runs with a folder as its root, as process 1, as in a container.

    Args:
        root: the folder.
        command: what runs there.
        environ: its environment; nothing of this process's gets in beside it.
        mounts: folders of this machine, and where they are seen, read-only.
        has_network: False leaves nothing but the loopback interface.
    """
    for source, target in mounts:
        place = root / target.lstrip("/")
        if source.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    lines = [f"mount -t proc proc {root}/proc", *(f"mount --rbind {each} {root}{each}" for each in ("/dev", "/sys"))]
    lines += [f"mount --bind -o ro {source} {root}{target}" for source, target in mounts]
    lines += [] if has_network else ["ip link set lo up"]
    words = ["env", "-i", *(f"{key}={value}" for key, value in environ.items()), *command]
    script = " && ".join([*lines, f"exec chroot {root} {shlex.join(words)}"])
    spaces = ["--mount", "--pid", "--fork", "--kill-child", *([] if has_network else ["--net"])]
    return ["unshare", *spaces, "sh", "-c", script]


def of_pip() -> list[tuple[Path, str]]:
    """What pip needs to find what it finds on this machine: name servers, certificates, indexes on disk."""
    places = [Path(each) for each in re.findall(r"(?:file://)?(/[\w./-]+)", "\n".join(_pip_config().values()))]
    folders = sorted({each.parent if each.name == "simple" else each for each in places if each.is_dir()})
    found = [(each.resolve(), str(each)) for each in (Path("/etc/resolv.conf"), *folders)]
    certificates = _certificates()
    return [*found, (Path(certificates).resolve(), _CERTIFICATES)] if certificates else found


def pip_environ() -> dict[str, str]:
    """How pip on this machine is set up, as variables."""
    found = {key: value for key, value in os.environ.items() if _PASSED_ON.match(key)}
    for name, value in _pip_config().items():
        found["PIP_" + name.upper().replace("-", "_")] = value
    return found | ({"PIP_CERT": _CERTIFICATES, "SSL_CERT_FILE": _CERTIFICATES} if _certificates() else {})


@cache
def _pip_config() -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", told, re.MULTILINE))


def _certificates() -> str:
    return _pip_config().get("cert", "")


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], ""), text)
