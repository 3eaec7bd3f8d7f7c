# SPDX-License-Identifier: Apache-2.0
"""Bring src/lmi_vllm/architectures.json up to date with the models of another version of vLLM.

    python plugins/lmi_vllm/generate_architectures.py VERSION FOLDER

FOLDER is that of the package vllm, installed or unpacked; its sources are read, nothing of it is imported. Run it where
the transformers is installed that this vLLM wants: models that vLLM does not have itself run through transformers' own
code, where that code allows it, and transformers says so of each.
"""

from __future__ import annotations

import ast
import json
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "src" / "lmi_vllm" / "architectures.json"

_SERVED = (
    "_TEXT_GENERATION_MODELS", "_EMBEDDING_MODELS", "_LATE_INTERACTION_MODELS", "_REWARD_MODELS",
    "_TOKEN_CLASSIFICATION_MODELS", "_SEQUENCE_CLASSIFICATION_MODELS", "_MULTIMODAL_MODELS",
    "_TRANSFORMERS_SUPPORTED_MODELS",
)  # fmt: skip
"""Tables of the registry; those of draft models and of stand-ins are left out."""


def tables_of(path: Path) -> dict[str, dict[str, Any]]:
    """The dictionaries that a module assigns at its top, as far as their keys are plain texts."""
    found: dict[str, dict[str, Any]] = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(getattr(node, "value", None), ast.Dict):
            found[target.id] = dict(_entries(node.value, found))  # type: ignore[union-attr]
    return found


def _entries(table: ast.Dict, before: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant):
            yield key.value, ast.literal_eval(value)
        elif isinstance(value, ast.DictComp):  # the same as another table, where a condition holds
            yield from ()
        elif isinstance(value, ast.Name):
            yield from before[value.id].items()


def classes_with_adapters(folder: Path) -> set[str]:
    """Names of the model classes that take LoRA adapters, by what they inherit."""
    parents: dict[str, set[str]] = {}
    for path in [*folder.glob("model_executor/models/**/*.py"), *folder.glob("models/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                parents.setdefault(node.name, set()).update(names)
    found = {"SupportsLoRA"}
    while more := {name for name, bases in parents.items() if name not in found and bases & found}:
        found |= more
    return found


def config_types(folder: Path) -> list[str]:
    """Model types whose configuration vLLM or transformers reads without code of the model's own."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    module = ast.parse((folder / "transformers_utils" / "config.py").read_text("utf-8"))
    own = [
        keyword.arg
        for node in module.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_CONFIG_REGISTRY"
        for keyword in getattr(node.value, "keywords", [])
    ]
    return sorted({*(str(each) for each in own), *CONFIG_MAPPING_NAMES})


def through_transformers(served: set[str]) -> list[str]:
    """Further architectures whose code in transformers lets vLLM put in its own attention."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    tables = (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    values = [value for table in tables for value in table.values()]
    names = {name for value in values for name in ([value] if isinstance(value, str) else value)}
    return [name for name in sorted(names - served) if _is_open(getattr(transformers, name))]


def _is_open(model_class: Any) -> bool:
    return bool(model_class.is_backend_compatible() or model_class._can_set_attn_implementation())


def main(version: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    import transformers

    tables = tables_of(folder / "model_executor" / "models" / "registry.py")
    served = {name: entry[1] for table in _SERVED for name, entry in tables[table].items()}
    takes = classes_with_adapters(folder)
    content = {
        "served": sorted(served),
        "without_adapters": sorted(name for name, of_class in served.items() if of_class not in takes),
        "through_transformers": through_transformers(set(served)),
        "config_types": config_types(folder),
    }
    lists = ",\n".join(f'"{key}": [\n{_filled(names)}\n]' for key, names in content.items())
    dropped = {**tables["_PREVIOUSLY_SUPPORTED_MODELS"], **tables["_OOT_SUPPORTED_MODELS"]}
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(last)}" for name, last in sorted(dropped.items()))
    head = f'"version": {json.dumps(version)},\n"transformers": {json.dumps(transformers.__version__)}'
    TARGET.write_text(f'{{{head},\n{lists},\n"dropped": {{\n{rows}\n}}}}\n', "utf-8")
    print({key: len(names) for key, names in content.items()}, len(dropped))


def _filled(names: list[str]) -> str:
    return textwrap.fill(", ".join(json.dumps(name) for name in names), 118, break_long_words=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
