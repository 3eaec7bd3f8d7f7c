# SPDX-License-Identifier: Apache-2.0
"""What a worker's process is given before vLLM is imported: variables, and on CPU the sizes that vLLM leaves open.

What somebody has set already is never changed, but for the folder that ``option.compile_cache`` names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from lmi.api import ModelArtifacts, copy_of, memory_share_bytes
from lmi_vllm import machine
from lmi_vllm.cache_size import CacheSize, choose_cache_size
from lmi_vllm.compile_cache import choose_compile_cache
from lmi_vllm.config import VLLMConfig
from lmi_vllm.threads import choose_threads

CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
NO_COMPILATION = "TORCH_COMPILE_DISABLE"

_SAFE_PORTS, _FIRST_PORT = "SAGEMAKER_SAFE_PORT_RANGE", "VLLM_PORT"
"""Where a container may listen, as FIRST-LAST; and from where on vLLM looks for ports that are free."""

_ALWAYS = {
    # The worker has threads and an event loop, which a forked child would inherit half alive.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was chosen for this machine.

    Args:
        lines: for the log: each choice, and why.
        cache_bytes: for the keys and values of each rank; None where the options, a variable or the device decide.
    """

    lines: tuple[str, ...]
    cache_bytes: int | None = None


def prepare(config: VLLMConfig, artifacts: ModelArtifacts) -> Prepared:
    """Set the variables that this process, and those that vLLM starts, shall have.

    Raises:
        EngineLoadError: the folder for compiled code cannot be written.
        OutOfMemoryError: the weights do not fit into memory.
    """
    _set_unset(_ALWAYS)
    if safe_ports := os.environ.get(_SAFE_PORTS, "").strip():
        _set_unset({_FIRST_PORT: safe_ports.partition("-")[0].strip()})
    variables, line = choose_compile_cache(config.compile_cache, os.environ)
    os.environ.update(variables)
    if config.lmcache_config_file:
        _set_unset({"LMCACHE_CONFIG_FILE": config.lmcache_config_file})
    if not machine.runs_on_cpu(os.environ):
        return Prepared(lines=(line,))
    variables, threads = choose_threads(config.n_devices, os.environ)
    os.environ.update(variables)
    size = _choose_cache(config, artifacts)
    return Prepared(lines=(line, size.line, threads, _choose_compilation(config)), cache_bytes=size.n_bytes or None)


def _choose_cache(config: VLLMConfig, artifacts: ModelArtifacts) -> CacheSize:
    """How large the cache is, or who else says so."""
    said = _said_elsewhere(config)
    if said:
        return CacheSize(n_bytes=0, line=said)
    return choose_cache_size(config, artifacts, memory_share_bytes(), copy_of(os.environ)[1])


def _said_elsewhere(config: VLLMConfig) -> str:
    if config.kv_cache_memory_bytes is not None:
        return f"KV cache: {config.kv_cache_memory_bytes} bytes, as option.kv_cache_memory_bytes says"
    if os.environ.get(CACHE_SPACE):
        return f"KV cache: {os.environ[CACHE_SPACE]} GiB, as {CACHE_SPACE} says"
    if config.gpu_memory_utilization is not None:
        share = config.gpu_memory_utilization
        return f"KV cache: what weights leave of {share:.0%} of memory, as option.gpu_memory_utilization={share} says"
    return ""


def _choose_compilation(config: VLLMConfig) -> str:
    """Whether the model is compiled; where it is not, nothing else is, or the first request would wait for it."""
    if config.enforce_eager or config.enable_lora:
        why = "option.enforce_eager=true" if config.enforce_eager else "vLLM does not compile with adapters on CPU"
        _set_unset({NO_COMPILATION: "1"})
        return f"Compilation: off ({why})"
    if os.environ.get(NO_COMPILATION) not in (None, "", "0"):
        return f"Compilation: off, as {NO_COMPILATION}={os.environ[NO_COMPILATION]} says"
    return (
        "Compilation: on, which makes tokens about a sixth faster and the start a minute longer; "
        "option.enforce_eager=true turns it off"
    )


def _set_unset(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        if not os.environ.get(name):
            os.environ[name] = value
