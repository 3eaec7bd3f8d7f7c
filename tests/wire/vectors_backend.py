# SPDX-License-Identifier: Apache-2.0
"""A backend that makes vectors and labels of bytes; installed by the tests as a distribution of its own.

An input may be a command: ``die once FILE`` (kills the worker unless the file is there, and makes it), ``segfault``,
``give up FILE`` (says that the engine died, once), ``slow``, ``wrong`` (too few answers), ``nan``, ``refuse``.
"""

import asyncio
import math
import os
import signal
from pathlib import Path

from lmi.api import (
    BackendConfig,
    BackendInfo,
    Engine,
    EngineDeadError,
    EngineLimits,
    EngineStats,
    Finish,
    FinishReason,
    RequestError,
    Resume,
    Task,
    TokenChunk,
    Usage,
    hookimpl,
    option,
)


class VectorsConfig(BackendConfig):
    max_model_len: int = option(64, description="Longest input.", unit="tokens", ge=2)
    task: str | None = option(None, description="What it does.")


class VectorsEngine(Engine):
    def __init__(self, config):
        self.limits = EngineLimits(
            max_context_tokens=config.max_model_len, max_batch_size=config.max_rolling_batch_size, vocab_size=256
        )
        self.n_steps = self.n_running = 0

    async def generate(self, request):
        yield TokenChunk([65], finish=Finish(FinishReason.LENGTH), usage=Usage(len(request.prompt_ids), 1))

    async def embed(self, prompts, normalize=True, n_dimensions=None):
        if n_dimensions is not None and n_dimensions > 4:
            raise RequestError("request.invalid", f"dimensions={n_dimensions}: vectors have 4 numbers")
        return [_cut(vector, normalize, n_dimensions) for vector in await self.numbers(prompts, _vector)]

    async def classify(self, prompts):
        return await self.numbers(prompts, _probabilities)

    async def numbers(self, prompts, make):
        self.n_running += 1
        try:
            found = [make(prompt) for prompt in prompts]
            for prompt in prompts:
                self.n_steps += 1
                found = await self.obey(bytes(prompt).decode(errors="replace"), found)
            return found
        finally:
            self.n_running -= 1

    async def obey(self, text, found):
        command, _, file = text.rpartition(" ")
        if text == "segfault" or (command == "die once" and not Path(file).exists()):
            if command:
                Path(file).touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        elif command == "give up" and not Path(file).exists():
            Path(file).touch()
            raise EngineDeadError("engine.died", "it was told to give up")
        elif text == "slow":
            await asyncio.sleep(3600)
        elif text == "refuse":
            raise RequestError("request.invalid", "it was told to refuse")
        return found[:-1] if text == "wrong" else [[math.nan] * 4] * len(found) if text == "nan" else found

    def stats(self):
        return EngineStats(n_running=self.n_running, n_steps=self.n_steps)

    async def close(self):
        pass


def _vector(prompt):
    return [float(len(prompt)), float(sum(prompt)), float(prompt[0]), float(prompt[-1])]


def _cut(vector, normalize, n_dimensions):
    cut = vector[:n_dimensions]
    length = math.sqrt(sum(x * x for x in cut)) if normalize else 1.0
    return [x / length for x in cut]


def _probabilities(prompt):
    counts = [1 + prompt.count(each) for each in b"abc"]
    return [count / sum(counts) for count in counts]


@hookimpl
def lmi_describe_backend():
    tasks = (Task.GENERATE, Task.EMBED, Task.CLASSIFY)
    return BackendInfo(name="vectors", summary="Of bytes", needs_model=False, resume=Resume.NEVER, tasks=tasks)


@hookimpl
def lmi_config_type():
    return VectorsConfig


@hookimpl
def lmi_load_engine(artifacts, config, progress):
    return VectorsEngine(config)
