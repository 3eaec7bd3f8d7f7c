# SPDX-License-Identifier: Apache-2.0
"""Where vLLM, torch and Triton keep what they compiled."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lmi.api import EngineLoadError
from lmi.api.folders import cache_root

ROOT = "VLLM_CACHE_ROOT"
_PARTS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
_COMPILED = ("torch_compile_cache", "torch_aot_compile", *_PARTS.values())
"""Folders that hold compiled code; vLLM keeps other things beside them."""


def choose_compile_cache(folder: str | None, environ: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The variables to set, and a line that says where the cache is and whether there is something in it.

    Args:
        folder: the one that ``option.compile_cache`` names; None takes ``vllm`` in LMI's cache folder.
        environ: folders that are set already hold.
    Raises:
        EngineLoadError: the named folder cannot be written.
    """
    root = Path(folder or environ.get(ROOT, "") or cache_root(environ) / "vllm").expanduser()
    reason = _refusal(root)
    if reason and (folder or environ.get(ROOT)):
        named = "option.compile_cache" if folder else ROOT
        raise EngineLoadError(
            "engine.cache-unwritable",
            f"{named} is {root}, which cannot be written: {reason}",
            f"Name a folder that this user can write, or take {named} out",
        )
    note = ""
    if reason:  # nobody asked for this one, so it stops no start
        note, root = f"; {root} cannot be written", _temporary()
    wanted = {ROOT: str(root), **{name: str(root / part) for name, part in _PARTS.items()}}
    # A folder that the option names beats a variable, which may be the image's.
    chosen = {name: value for name, value in wanted.items() if folder or not environ.get(name)}
    n_bytes, is_warm = _content(root)
    state = f"{n_bytes / (1 << 20):.1f} MiB, {'warm' if is_warm else 'nothing compiled yet'}"
    return chosen, f"Compile cache: {root} ({state}{note}; option.compile_cache names another folder)"


def _temporary() -> Path:
    """A folder that only this user can write, and another worker may have filled: code is loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"lmi-vllm-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_private else Path(tempfile.mkdtemp(prefix="lmi-vllm-"))


def _refusal(folder: Path) -> str:
    """Why a folder cannot be written; empty where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _content(folder: Path) -> tuple[int, bool]:
    """Bytes of the files, and whether compiled code is among them."""
    n_bytes, is_warm = 0, False
    for path, _, names in os.walk(folder):
        parts = Path(path).relative_to(folder).parts
        is_warm = is_warm or bool(names and parts and parts[0] in _COMPILED)
        for name in names:
            try:
                n_bytes += Path(path, name).lstat().st_size
            except OSError:  # another process is at work here
                continue
    return n_bytes, is_warm
