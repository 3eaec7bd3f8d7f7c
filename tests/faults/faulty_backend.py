# SPDX-License-Identifier: Apache-2.0
"""A backend that breaks on request; installed by the tests as a distribution of its own.

Like echo, but the prompt may be a command: ``segfault``, ``segfault at N`` (tokens), ``segfault after N``
(tokens since it was started or resumed), ``raise``, ``die``, ``hang``, ``garbage`` (a chunk that cannot be sent).
With an adapter it says the adapter's name, over and over. How the load of an adapter goes is in its ``fault.txt``:
refuse, raise, segfault, only one (worker can), slow: until that file is gone, or stubborn: and nobody can cancel it.
How it is pinned is in its ``pin.txt``: refuse, or slow.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from lmi.api import (
    BackendConfig,
    BackendInfo,
    Capability,
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineLoadError,
    EngineStats,
    Finish,
    FinishReason,
    NotFoundError,
    RequestError,
    Resume,
    TokenChunk,
    Usage,
    adapter_problems,
    hookimpl,
    option,
)


class FaultyConfig(BackendConfig):
    max_rolling_batch_size: int = option(64, description="Requests at once.", unit="sequences", ge=1)
    step_s: float = option(0.01, description="Time a token takes.", unit="s", ge=0)
    load: str = option("well", description="How loading goes: well, slow, raise, refuse, segfault, half or child.")
    kind: str = option("exact", description="Resume kind to imitate.")
    max_lora_rank: int = option(8, description="Largest rank of an adapter.", unit="rank", ge=1)
    enable_lora: bool = option(True, description="Serve adapters.")
    offset: int = option(0, description="What the tokenizer adds to the code of a letter.", unit="ids")
    adapters_switch: ClassVar[str] = "enable_lora"


class FaultyEngine(Engine):
    def __init__(self, config):
        self.limits = EngineLimits(max_context_tokens=4096, max_batch_size=config.max_rolling_batch_size, vocab_size=0)
        self.config = config
        self.adapters, self.paths = {}, {}
        self.n_steps = self.n_running = 0
        self.is_dead = False

    async def generate(self, request):
        prompt_ids = request.prompt_ids
        if request.adapter:
            if request.adapter not in self.adapters:
                raise NotFoundError("adapter.unknown", f"adapter {request.adapter!r} is not loaded")
            prompt_ids = self.adapters[request.adapter]
        prompt = "".join(map(chr, request.prompt_ids))
        command, _, at = prompt.partition(" at ")
        command, _, after = command.partition(" after ")
        first = len(request.resumed_ids)
        n_prompt, n_tokens = len(request.prompt_ids), request.sampling.max_tokens
        self.n_running += 1
        try:
            for position in range(first, n_tokens):
                await asyncio.sleep(self.config.step_s)
                self.n_steps += 1
                if position >= int(at or 0) and position - first >= int(after or 0):
                    self.obey(command)
                is_last = position == n_tokens - 1
                token_id = prompt_ids[position % len(prompt_ids)]
                yield TokenChunk(
                    [token_id if command != "garbage" else complex(token_id)],
                    finish=Finish(FinishReason.LENGTH) if is_last else None,
                    usage=Usage(n_prompt, position + 1) if is_last else None,
                )
        finally:
            self.n_running -= 1

    def obey(self, command):
        if command == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif command == "raise":
            raise ValueError("this request was told to raise")
        elif command == "die":
            self.is_dead = True
            raise EngineDeadError("engine.told-to-die", "this request was told to kill its engine")
        elif command == "hang":
            time.sleep(3600)

    async def load_adapter(self, name, path):
        if not Path(path).is_dir():
            raise EngineLoadError("adapter.missing", f"there is no folder {path}")
        if name in self.adapters:
            raise RequestError("adapter.exists", f"adapter {name!r} is loaded")
        fault = Path(path, "fault.txt")
        match fault.read_text() if fault.exists() else "":
            case "refuse":
                raise EngineLoadError("adapter.odd", "these matrices do not fit", "Train them again")
            case "raise":
                raise ValueError("the matrices are made of cheese")
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "only one":
                Path(path, "taken.txt").touch(exist_ok=False)
            case "slow":
                while fault.exists():
                    await asyncio.sleep(0.01)
            case "stubborn":
                while fault.exists():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.01)
        self.paths[name] = path
        self.adapters[name] = [ord(letter) + self.config.offset for letter in name]

    async def unload_adapter(self, name):
        if os.environ.get("FAULTY_UNLOAD"):
            raise EngineLoadError("adapter.stuck", "this adapter does not want to go")
        del self.adapters[name]
        self.show_pinned(name, False)

    async def list_adapters(self):
        return list(self.adapters)

    async def pin_adapter(self, name, is_pinned):
        fault = Path(self.paths[name], "pin.txt")
        match fault.read_text() if fault.exists() else "":
            case "refuse":
                raise RequestError("adapter.too-many-pinned", "others would have no room", "Let another one go")
            case "slow":
                while fault.exists():
                    await asyncio.sleep(0.01)
        self.show_pinned(name, is_pinned)

    def show_pinned(self, name, is_pinned):
        """A file beside the adapter says which processes have pinned it."""
        sign = Path(self.paths[name], f"pinned-{os.getpid()}")
        sign.touch() if is_pinned else sign.unlink(missing_ok=True)

    def stats(self):
        return EngineStats(n_running=self.n_running, n_steps=self.n_steps)

    async def close(self):
        pass


@hookimpl
def lmi_describe_backend():
    kind = os.environ.get("FAULTY_RESUME", "exact")
    return BackendInfo(
        name="faulty",
        summary="Breaks on request",
        needs_model=False,
        artifact_formats=("pretrained",),
        capabilities=frozenset({Capability.ADAPTERS}),
        resume=Resume(kind),
    )


@hookimpl
def lmi_validate_artifacts(artifacts, config, target):
    return adapter_problems(artifacts, max_rank=config.max_lora_rank)


@hookimpl
def lmi_config_type():
    return FaultyConfig


@hookimpl
def lmi_load_engine(artifacts, config, progress):
    progress("read weights", 0.5)
    match config.load:
        case "slow":
            time.sleep(3600)
        case "raise":
            raise RuntimeError("the weights are made of cheese")
        case "refuse":
            raise EngineLoadError("engine.no-device", "there is no device for this model", "Plug one in")
        case "segfault":
            print("about to fall over", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "child":
            subprocess.Popen(["sleep", "3600"])
    engine = FaultyEngine(config)
    if config.load == "half":
        del engine.limits
    return engine
