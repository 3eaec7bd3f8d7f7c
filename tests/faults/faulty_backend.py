# SPDX-License-Identifier: Apache-2.0
"""A backend that breaks on request; installed by the tests as a distribution of its own.

Like echo, but the prompt may be a command: ``segfault``, ``segfault at N`` (tokens), ``segfault after N``
(tokens since it was started or resumed), ``raise``, ``die``, ``hang``, ``garbage`` (a chunk that cannot be sent).
"""

import asyncio
import os
import signal
import time
from pathlib import Path

from lmi.api import (
    BackendConfig,
    BackendInfo,
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineLoadError,
    EngineStats,
    Finish,
    FinishReason,
    Resume,
    TokenChunk,
    Usage,
    hookimpl,
    option,
)


class FaultyConfig(BackendConfig):
    max_rolling_batch_size: int = option(64, description="Requests at once.", unit="sequences", ge=1)
    step_s: float = option(0.01, description="Time a token takes.", unit="s", ge=0)
    load: str = option("well", description="How loading goes: well, slow, raise, refuse, segfault or half.")
    kind: str = option("exact", description="Resume kind to imitate.")


class FaultyEngine(Engine):
    def __init__(self, config):
        self.limits = EngineLimits(max_context_tokens=4096, max_batch_size=config.max_rolling_batch_size, vocab_size=0)
        self.config = config
        self.adapters = []
        self.n_steps = self.n_running = 0
        self.is_dead = False

    async def generate(self, request):
        prompt = bytes(request.prompt_ids).decode()
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
                token_id = request.prompt_ids[position % n_prompt]
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
        self.adapters.append(name)

    async def unload_adapter(self, name):
        self.adapters.remove(name)

    async def list_adapters(self):
        return self.adapters

    def stats(self):
        return EngineStats(n_running=self.n_running, n_steps=self.n_steps)

    async def close(self):
        pass


@hookimpl
def lmi_describe_backend():
    kind = os.environ.get("FAULTY_RESUME", "exact")
    return BackendInfo(name="faulty", summary="Breaks on request", needs_model=False, resume=Resume(kind))


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
    engine = FaultyEngine(config)
    if config.load == "half":
        del engine.limits
    return engine
