# SPDX-License-Identifier: Apache-2.0
"""What the installed transformers knows, read in its sources: importing it takes seconds and hundreds of MiB."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path


def is_installed(module: str) -> bool:
    """Whether a module can be imported here."""
    return importlib.util.find_spec(module) is not None


def knows_engine() -> bool:
    """Whether the engine is installed here; else it runs under another Python, whose packages cannot be seen."""
    return is_installed("torch") and is_installed("transformers")


def library_version() -> str:
    """Version of the installed transformers; "" where there is none."""
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return ""


def model_types() -> frozenset[str]:
    """Model types that it has code for; empty where it is not installed, or keeps them elsewhere."""
    return _keys("CONFIG_MAPPING_NAMES", "models/auto/auto_mappings.py", "models/auto/configuration_auto.py")


def causal_types() -> frozenset[str]:
    """Those of them that continue a text; empty in the same cases."""
    return _keys("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "models/auto/modeling_auto.py")


def types_with(table: str) -> frozenset[str]:
    """Those that have a class for a task, by the name of transformers' table of them; empty in the same cases."""
    return _keys(table, "models/auto/modeling_auto.py")


def quantization_methods() -> frozenset[str]:
    """Names of ``quant_method`` it reads; empty in the same cases."""
    return _keys("AUTO_QUANTIZATION_CONFIG_MAPPING", "quantizers/auto.py")


@lru_cache(maxsize=16)
def _keys(table: str, *files: str) -> frozenset[str]:
    """The keys of a table, in the files that assign it or add to it."""
    spec = importlib.util.find_spec("transformers")
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        return frozenset()
    return frozenset(key for name in files for key in _keys_in(Path(places[0]) / name, table))


def _keys_in(path: Path, table: str) -> Iterator[str]:
    try:
        body = ast.parse(path.read_text("utf-8")).body
    except (OSError, ValueError, SyntaxError):
        return
    for node in body:
        if isinstance(node, ast.Assign):
            names, value = [ast.unparse(target) for target in node.targets], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            names, value = [ast.unparse(node.target)], node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            names, value = [ast.unparse(node.value.func).removesuffix(".update")], node.value
        else:
            continue
        if table in names:
            yield from _literal_keys(value)


def _literal_keys(value: ast.expr) -> Iterator[str]:
    """The keys of ``{"a": ...}``, ``OrderedDict([("a", ...)])`` and ``TABLE.update({"a": ...})``."""
    if isinstance(value, ast.Call):
        for argument in value.args:
            yield from _literal_keys(argument)
    elif isinstance(value, ast.Dict):
        yield from (key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    elif isinstance(value, ast.List):
        for entry in value.elts:
            first = entry.elts[0] if isinstance(entry, ast.Tuple) and entry.elts else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value
