# SPDX-License-Identifier: Apache-2.0
"""A backend whose answer is which devices its process was given; installed by a test as a distribution of its own."""

import os

from lmi.api import (
    Accelerator,
    BackendConfig,
    BackendInfo,
    Engine,
    EngineLimits,
    EngineStats,
    Finish,
    FinishReason,
    Resume,
    TokenChunk,
    Usage,
    hookimpl,
)

VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NEURON_RT_VISIBLE_CORES")


class DevicesEngine(Engine):
    limits = EngineLimits(max_context_tokens=4096, max_batch_size=4, vocab_size=256)

    async def generate(self, request):
        shown = {name: os.environ.get(name) for name in VARIABLES}
        ids = list(" ".join(f"{name}={value}" for name, value in shown.items() if value is not None).encode())
        yield TokenChunk(ids, finish=Finish(FinishReason.LENGTH), usage=Usage(len(request.prompt_ids), len(ids)))

    def stats(self):
        return EngineStats()

    async def close(self):
        pass


@hookimpl
def lmi_describe_backend():
    return BackendInfo(
        name="devices",
        summary="Says which devices it has",
        accelerators=tuple(Accelerator),
        needs_model=False,
        resume=Resume.CONTINUES,
    )


@hookimpl
def lmi_config_type():
    return BackendConfig


@hookimpl
def lmi_load_engine(artifacts, config, progress):
    print("loading", flush=True)
    return DevicesEngine()
