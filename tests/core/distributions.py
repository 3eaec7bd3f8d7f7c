# SPDX-License-Identifier: Apache-2.0
"""Real little distributions for tests: a module and a dist-info folder on the path, found as installed ones are."""

import importlib.metadata
import importlib.util
import sys
import textwrap
from pathlib import Path

BACKEND = """
from typing import Literal

from lmi.api import *


class FakeConfig(BackendConfig):
    dtype: Literal["auto", "fp16", "bf16"] = option("auto", description="Type of the weights.", aliases=("data_type",))
    max_model_len: int | None = option(None, description="Longest sequence.", unit="tokens", ge=1)
    n_threads: int = option(0, description="Threads; 0 chooses.", unit="threads", ge=0)


class FakeEngine(Engine):
    limits = EngineLimits(max_context_tokens=8, max_batch_size=1, vocab_size=8)

    def __init__(self, artifacts, config):
        self.artifacts = artifacts
        self.config = config

    async def generate(self, request):
        yield TokenChunk(ids=[1])

    def stats(self):
        return EngineStats()

    async def close(self):
        pass


INFO = BackendInfo(name="NAME", summary="a fake", artifact_formats=("pretrained",), EXTRA)


@hookimpl
def lmi_describe_backend():
    return INFO


@hookimpl
def lmi_config_type():
    return FakeConfig


@hookimpl
def lmi_load_engine(artifacts, config, progress):
    progress("load", 1.0)
    return FakeEngine(artifacts, config)
"""


class Distributions:
    """Installs distributions into a folder; with ``alone`` nothing else is found by the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(self, distribution: str, group: str, name: str, code: str, version: str = "1.0") -> str:
        """Write module and metadata; the answer is the module's name."""
        module = f"{distribution}_{version}_{name}".replace("-", "_").replace(".", "_")
        path = self.folder / f"{module}.py"
        path.write_text(textwrap.dedent(code))
        # What was compiled of another text of the same length, in the same second, would pass for this one's.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[{group}]\n{name} = {module}\n")
        self.modules.append(module)
        return module

    def backend(
        self, name: str, *, distribution: str = "", extra: str = "", more: str = "", version: str = "1.0"
    ) -> str:
        """Install a backend that works; ``extra`` are further arguments of its BackendInfo, ``more`` further code."""
        code = BACKEND.replace("NAME", name).replace("EXTRA", extra) + textwrap.dedent(more)
        return self.install(distribution or f"lmi-{name}", "lmi.backends", name, code, version)

    def extension(self, name: str, code: str, *, distribution: str = "") -> str:
        text = "from lmi.api import *\n" + textwrap.dedent(code)
        return self.install(distribution or f"lmi-{name}", "lmi.extensions", name, text)

    def entry_points(self, *, group: str) -> list[importlib.metadata.EntryPoint]:
        found = importlib.metadata.distributions(path=[str(self.folder)])
        return [each for owner in found for each in owner.entry_points if each.group == group]

    def forget(self) -> None:
        """Take the modules out of this process."""
        for module in self.modules:
            sys.modules.pop(module, None)
