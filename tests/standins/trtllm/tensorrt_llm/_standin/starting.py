# SPDX-License-Identifier: Apache-2.0
"""From the arguments of an LLM to a running toy, with the constraints that the library has."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from enum import Enum
from pathlib import Path
from typing import Any

from tensorrt_llm._standin import faults
from tensorrt_llm._standin.adapters import Adapters
from tensorrt_llm._standin.model import ToyModel
from tensorrt_llm._standin.running import Executor
from tensorrt_llm.lora_helper import LoraConfig


def read_config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


def is_built(config: dict[str, Any]) -> bool:
    return "pretrained_config" in config and "build_config" in config


def build_engines(config: dict[str, Any], args: Any, version: str) -> Path:
    """Write what a build leaves behind: a configuration, and a file a rank."""
    faults.build()
    folder = Path(tempfile.mkdtemp(prefix="standin-engines-"))
    n_ranks = args.tensor_parallel_size * args.pipeline_parallel_size
    mapping = {"world_size": n_ranks, "tp_size": args.tensor_parallel_size, "pp_size": args.pipeline_parallel_size}
    quantization = dataclasses.asdict(args.quant_config) if dataclasses.is_dataclass(args.quant_config) else {}
    kept = ("vocab_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "hidden_size")
    model = {
        "architecture": (config.get("architectures") or [""])[0],
        "dtype": args.dtype,
        "mapping": mapping,
        "quantization": quantization,
        **{name: config[name] for name in kept if name in config},
    }
    build = dataclasses.asdict(args.build_config)
    build["plugin_config"] = {name.removeprefix("_"): value for name, value in build["plugin_config"].items()}
    content = {"version": version, "pretrained_config": model, "build_config": build}
    (folder / "config.json").write_text(json.dumps(content, default=_plain))
    for rank in range(n_ranks):
        (folder / f"rank{rank}.engine").write_bytes(b"stand-in")
    if args.build_config.output_timing_cache is not None:
        Path(args.build_config.output_timing_cache).write_bytes(b"stand-in")
    return folder


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else str(value)


def check_engines(config: dict[str, Any], args: Any, version: str) -> None:
    """Refuse engines of another version, or for other ranks."""
    built = config["pretrained_config"]["mapping"]
    asked = (args.tensor_parallel_size, args.pipeline_parallel_size)
    if (built.get("tp_size", 1), built.get("pp_size", 1)) != asked:
        raise ValueError(f"engines built for {built}, asked for tp_size and pp_size {asked} (stand-in)")
    if config["version"] != version:
        raise RuntimeError(f"engines of {config['version']} do not load in {version} (stand-in)")


def start(config: dict[str, Any], args: Any) -> tuple[Executor, int]:
    """The running toy, and the longest sequence it takes."""
    faults.load()
    model = config.get("pretrained_config", config)
    build = config.get("build_config", {})
    n_batch = min(args.max_batch_size or 2048, build.get("max_batch_size") or 2048)
    longest = build.get("max_seq_len") or args.max_seq_len or model.get("max_position_embeddings", 2048)
    return Executor(ToyModel(model["vocab_size"]), n_batch, longest, _adapters(model, build, args)), longest


def _adapters(model: dict[str, Any], build: dict[str, Any], args: Any) -> Adapters:
    """Room for adapters as the arguments say it, or the engines; some models hear of none on the PyTorch way."""
    room, given = args.lora_config, args.lora_config
    if args.backend != "pytorch":
        is_built_so = args.enable_lora and build["plugin_config"].get("lora_plugin")
        room = LoraConfig(**build["lora_config"]) if is_built_so else None
    n_places = 8 if given is None else given.max_cpu_loras or 8
    is_heard = args.backend != "pytorch" or faults.hears_adapters()
    return Adapters(room, n_places, is_heard=is_heard)
