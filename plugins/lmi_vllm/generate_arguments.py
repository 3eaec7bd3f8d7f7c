# SPDX-License-Identifier: Apache-2.0
"""Bring src/lmi_vllm/arguments.json up to date with the arguments of another version of vLLM.

    python plugins/lmi_vllm/generate_arguments.py SIGNATURES.json

SIGNATURES.json holds ``{"version": ..., "items": {"vllm.engine.arg_utils.AsyncEngineArgs": {"fields": {NAME:
{"annotation": ..., "default": ...}}}}}``, annotations and defaults as Python writes them. Types, choices and defaults
come from there; units, bounds and descriptions are written by hand in arguments.json and are kept. New arguments get a
plain description, those that are gone are dropped, and both are named. Of the arguments that options.py declares under
LMI's names the types are recorded beside them, so that a test can tell when vLLM changes one.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "src" / "lmi_vllm" / "arguments.json"
ITEM = "vllm.engine.arg_utils.AsyncEngineArgs"

NOT_PASSED = frozenset({"model_weights", "revision", "_api_process_count", "_api_process_rank"})
"""Arguments that are vLLM's own business, or say how to fetch a model that is here already."""

OF_LMI = frozenset({
    "model", "trust_remote_code", "cpu_offload_gb", "dtype", "enable_chunked_prefill", "enable_lora",
    "enable_prefix_caching", "enforce_eager", "fully_sharded_loras", "gpu_memory_utilization", "kv_cache_memory_bytes",
    "kv_transfer_config", "limit_mm_per_prompt", "load_format", "lora_dtype", "max_cpu_loras", "max_lora_rank",
    "max_loras", "max_model_len", "max_num_batched_tokens", "max_num_seqs", "pipeline_parallel_size", "quantization",
    "reasoning_parser", "seed", "speculative_config", "tensor_parallel_size", "tokenizer_mode",
})  # fmt: skip
"""Arguments that options.py declares, or that the core has."""

_ENUMS: dict[str, dict[str, Any]] = {
    "ignore_patterns": {"type": "list"},
    "max_logprobs": {"default": 100},
    "mamba_backend": {"type": "choice", "default": "triton", "choices": ["triton", "flashinfer", "cpu"]},
    "optimization_level": {"type": "int", "default": 2, "ge": 0, "le": 3},
}
"""What the signatures do not show of arguments, and the default that is LMI's: requests may ask for 100."""

_PLAIN = {"bool": "switch", "int": "int", "float": "float", "str": "text"}


def kind_of(annotation: str) -> tuple[str, list[str]]:
    """Type of an argument in the words of arguments.json, and its choices."""
    closed = re.fullmatch(r"(?:Optional\[)?Literal\[(.*?)\]\]?", annotation)
    if closed:
        return "choice", [str(each) for each in ast.literal_eval(f"[{closed[1]}]")]
    parts = [part.strip() for part in annotation.split(" | ")]
    first = parts[0]
    # A closed list or anything else, a switch or a text, an enumeration that vLLM finds by its name: all of them text.
    if annotation.startswith("Union[") or first.endswith("Enum") or (first == "bool" and "str" in parts):
        return "text", []
    if first.startswith(("list[", "set[")):
        return ("int_list" if first == "list[int]" else "list"), []
    return _PLAIN.get(first, "map"), []


def entry_of(name: str, field: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """One argument: what vLLM says of it, then what was written by hand."""
    kind, choices = kind_of(field["annotation"])
    try:
        default = ast.literal_eval(field["default"])
    except (SyntaxError, ValueError):  # an object that vLLM makes
        default = None
    entry: dict[str, Any] = {"type": kind, "default": default}
    if choices:
        entry["choices"] = choices
    by_hand: dict[str, Any] = {key: old[key] for key in ("unit", "ge", "le", "gt", "description") if key in old}
    plain: dict[str, Any] = {"description": f"vLLM's argument {name}, passed on as it is."}
    if kind in ("int", "float"):
        plain = {"unit": "as vLLM counts", **plain}
    return {**entry, **plain, **by_hand, **_ENUMS.get(name, {})}


def type_of(field: dict[str, Any]) -> dict[str, Any]:
    """The type of an argument, and its choices, as far as arguments.json has words for it."""
    kind, choices = kind_of(field["annotation"])
    return {"type": kind, "choices": choices} if choices else {"type": kind}


def rows_of(entries: dict[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(entries.items()))


def main(path: str) -> None:
    signatures = json.loads(Path(path).read_text("utf-8"))
    old = json.loads(TARGET.read_text("utf-8"))["arguments"] if TARGET.is_file() else {}
    fields = signatures["items"][ITEM]["fields"]
    kept_back = OF_LMI | NOT_PASSED
    new = {name: entry_of(name, field, old.get(name, {})) for name, field in fields.items() if name not in kept_back}
    own = {name: type_of(fields[name]) for name in sorted(OF_LMI & fields.keys())}
    version = json.dumps(signatures["version"])
    text = f'{{"version": {version},\n"not_passed": {json.dumps(sorted(NOT_PASSED & fields.keys()))},\n'
    TARGET.write_text(f'{text}"of_lmi": {{\n{rows_of(own)}\n}},\n"arguments": {{\n{rows_of(new)}\n}}}}\n', "utf-8")
    print(f"{len(new)} arguments; new: {sorted(new.keys() - old)}; gone: {sorted(old.keys() - new)}")


if __name__ == "__main__":
    main(sys.argv[1])
