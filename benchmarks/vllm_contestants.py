# SPDX-License-Identifier: Apache-2.0
"""What vllm_bench.py compares: vLLM's engine alone, behind LMI and behind its own server, with the same arguments."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

import mixed_client
from mixed_load import Ask, Timing
from processes import Lmi, Program, cpu_s, free_ports

ROLES = ("server", "worker", "core", "ranks")
"""Who uses CPU time: the HTTP server, the process that holds the engine, the engine's scheduler, those that compute.
vLLM's own server holds the engine itself."""

MAX_SLOTS, CONTEXT_TOKENS, STEP_TOKENS = 64, 1024, 2048
_CACHE_BYTES = 1 << 30
_LOAD_LIMIT_S, _RUN_LIMIT_S = 600.0, 900.0
_TITLES = {"VLLM::EngineCore": "core", "VLLM::Worker": "ranks"}
_OWN_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY")
_CONFIG = re.compile(r"Initializing a V1 LLM engine .*? with config: (.*)")
_CORES = re.compile(r"local_rank=(\d+), core ids=\[([\d, ]*)\]")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all of them share.

    Args:
        model: folder.
        python: of vLLM's environment.
        bind: VLLM_CPU_OMP_THREADS_BIND.
        is_compiled: whether vLLM compiles the model.
    """

    model: str
    python: str
    bind: str
    is_compiled: bool

    def arguments(self) -> dict[str, str | int | bool]:
        """Keywords of AsyncEngineArgs."""
        return {
            "model": self.model,
            "dtype": "bfloat16",
            "max_num_seqs": MAX_SLOTS,
            "max_model_len": CONTEXT_TOKENS,
            "max_num_batched_tokens": STEP_TOKENS,
            "kv_cache_memory_bytes": _CACHE_BYTES,
            "enforce_eager": not self.is_compiled,
        }

    def environ(self) -> dict[str, str]:
        """Variables: nothing of the caller's says how many threads there are."""
        kept = {name: value for name, value in os.environ.items() if name not in _OWN_THREADS}
        kept |= {"VLLM_CPU_OMP_THREADS_BIND": self.bind, "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
        kept |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        return kept if self.is_compiled else {**kept, "TORCH_COMPILE_DISABLE": "1"}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One of those that are measured in turns.

    Args:
        name: for the table.
        program: with all its processes.
        measure: sends requests, so many at a time.
        roles: process -> role, of those that have no title.
    """

    name: str
    program: Program
    measure: Callable[[Sequence[Ask], int], Timing]
    roles: dict[int, str]

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of each role so far."""
        used_s = dict.fromkeys(ROLES, 0.0)
        for process in self.program.tree():
            used_s[self._role(process)] += cpu_s(process)
        return used_s

    def _role(self, process: psutil.Process) -> str:
        if process.pid in self.roles:
            return self.roles[process.pid]
        try:
            command = process.cmdline()
        except psutil.NoSuchProcess:
            command = []
        title = command[0] if command else ""
        return next((role for start, role in _TITLES.items() if title.startswith(start)), "worker")

    def engine_config(self) -> dict[str, str]:
        """What vLLM logged of its configuration; empty where it logged none."""
        found = _CONFIG.search(self.program.log())
        pairs = re.split(r", (?=\w+=)", found[1]) if found else []
        return dict(pair.partition("=")[::2] for pair in pairs)

    def cores(self) -> list[str]:
        """The cores of each rank, as vLLM logged them."""
        return [cores for _, cores in _CORES.findall(self.program.log())]


def bare(setup: Setup) -> list[Contestant]:
    """The engine with nothing before it; and again with the log probability of each token, as LMI's lines have it."""
    command = [setup.python, str(Path(__file__).with_name("vllm_bare.py")), json.dumps(setup.arguments())]
    program = Program("bare", command, environ=setup.environ(), is_told=True)
    _ready(program, lambda: program.wait_for_line(r"(?m)^ready$", _LOAD_LIMIT_S))
    n_runs = 0

    def measure(asks: Sequence[Ask], n_at_once: int, n_logprobs: int | None) -> Timing:
        nonlocal n_runs
        n_runs += 1
        task = {"number": n_runs, "asks": [asdict(ask) for ask in asks], "n_at_once": n_at_once}
        program.tell(json.dumps({**task, "logprobs": n_logprobs}))
        return Timing(**json.loads(program.wait_for_line(rf"(?m)^result {n_runs} (.*)$", _RUN_LIMIT_S)[1]))

    roles = {program.root.pid: "worker"}
    return [
        Contestant(name="bare", program=program, roles=roles, measure=lambda asks, n: measure(asks, n, None)),
        Contestant(name="bare+logprobs", program=program, roles=roles, measure=lambda asks, n: measure(asks, n, 0)),
    ]


def lmi(setup: Setup) -> Contestant:
    """``lmi serve`` with the engine in its worker, LMI's schema."""
    arguments = setup.arguments()
    given = {
        "rolling_batch": "vllm",
        "pythonExecutable": setup.python,
        "dtype": "bf16",
        "max_rolling_batch_size": MAX_SLOTS,
        "max_rolling_batch_prefill_tokens": STEP_TOKENS,
        **{name: arguments[name] for name in ("max_model_len", "kv_cache_memory_bytes")},
        "enforce_eager": "false" if setup.is_compiled else "true",
    }
    return _lmi("LMI", setup, given, setup.environ())


def lmi_hf(setup: Setup) -> Contestant:
    """``lmi serve`` with the hf backend, on as many threads as it takes by itself."""
    given = {
        "rolling_batch": "hf",
        "dtype": "bf16",
        "max_rolling_batch_size": MAX_SLOTS,
        "max_model_len": CONTEXT_TOKENS,
    }
    kept = {name: value for name, value in os.environ.items() if name not in _OWN_THREADS}
    return _lmi("LMI hf", setup, given, kept)


def _lmi(name: str, setup: Setup, given: Mapping[str, object], environ: dict[str, str]) -> Contestant:
    words = [word for option, value in given.items() for word in ("-o", f"{option}={value}")]
    program = Lmi(setup.model, *words, environ=environ, load_limit_s=_LOAD_LIMIT_S)
    return Contestant(
        name=name,
        program=program,
        roles={program.root.pid: "server", program.worker.pid: "worker"},
        measure=lambda asks, n: mixed_client.run(f"{program.url}/invocations", asks, n),
    )


def openai(setup: Setup) -> Contestant:
    """vLLM's own server, its completions with text in and text out."""
    (port,) = free_ports(1)
    flags: list[str] = []
    for name, value in setup.arguments().items():
        flag = f"--{name.replace('_', '-')}"
        if value is not False:
            flags += [flag] if value is True else [flag, str(value)]
    # Not the command `vllm`: it asks for the version of a distribution of that name, which vllm-cpu is not.
    command = [setup.python, "-m", "vllm.entrypoints.openai.api_server", *flags]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model"]
    program = Program("vllm", command, environ=setup.environ())
    url = f"http://127.0.0.1:{port}"
    _ready(program, lambda: program.wait_for_answer(f"{url}/health", _LOAD_LIMIT_S))
    return Contestant(
        name="vllm serve",
        program=program,
        roles={program.root.pid: "server"},
        measure=lambda asks, n: mixed_client.run(f"{url}/v1/completions", asks, n, "model"),
    )


def _ready(program: Program, wait: Callable[[], object]) -> None:
    try:
        wait()
    except BaseException:
        program.stop()
        raise
