# SPDX-License-Identifier: Apache-2.0
"""Real workers of a machine with accelerators that this one need not have: each process is shown its own devices."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from lmi.config.model_entries import ModelEntry
from lmi.loading import plan
from lmi.plugins import Plugins
from lmi.workers.pool import WorkerPool
from lmi.workers.worker import Worker, WorkerState
from tests.core.distributions import Distributions
from tests.core.test_pool import Answer
from tests.limits import limit_s


class Machine:
    """The running copies of a model on a machine with these devices."""

    def __init__(self, pool: WorkerPool, states: asyncio.Queue[Worker]) -> None:
        self.pool = pool
        self.states = states

    async def ready(self, n_workers: int) -> dict[str, Worker]:
        """The workers by label, when so many are ready."""
        while sum(worker.state is WorkerState.READY for worker in self.pool.workers) < n_workers:
            await asyncio.wait_for(self.states.get(), limit_s(20))
        return {worker.label: worker for worker in self.pool.workers}

    async def shown(self, n_workers: int) -> dict[str, str]:
        """What each worker's process answers when it is asked for its devices."""
        answers = {}
        for label, worker in (await self.ready(n_workers)).items():
            answer = Answer("devices?", 64)
            worker.submit([answer.flight])
            answers[label] = (await answer.end()).text
        return answers


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Run a scenario on a machine, ``cuda:4``, with these options."""
    code = (Path(__file__).parent / "devices_backend.py").read_text()
    Distributions(tmp_path).install("lmi-devices", "lmi.backends", "devices", code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(scenario, devices, environ=None, **options):
        flags = {"rolling_batch": "devices", **{key: str(value) for key, value in options.items()}}
        made = plan(
            ModelEntry(),
            flags=flags,
            environ=environ or {},
            plugins=Plugins.discover({}),
            default_folder=tmp_path / "none",
            devices=devices,
        )

        async def main():
            states = asyncio.Queue()
            pool = WorkerPool(made, on_state=states.put_nowait, on_failed=lambda error, worker: None)
            pool.fill()
            try:
                await asyncio.wait_for(scenario(Machine(pool, states)), limit_s(40))
            finally:
                await pool.close()

        asyncio.run(main())

    return run


def test_each_copy_has_its_devices_also_after_its_process_was_killed(play, caplog):
    expected = {
        f"model/{number}": f"CUDA_VISIBLE_DEVICES={slice_} CUDA_DEVICE_ORDER=PCI_BUS_ID"
        for number, slice_ in enumerate(("0,1", "2,3"))
    }

    async def scenario(machine: Machine) -> None:
        assert await machine.shown(2) == expected
        for label in ("model/1", "model/0"):
            worker = (await machine.ready(2))[label]
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            while worker.state is not WorkerState.DEAD:
                await asyncio.wait_for(machine.states.get(), limit_s(20))
            assert await machine.shown(2) == expected

    with caplog.at_level(logging.INFO):
        play(scenario, "cuda:4", tensor_parallel_degree=2)
    assert "[model/1 on cuda:2,3] loading" in caplog.messages
    assert any(text.startswith("worker model/0 on cuda:0,1 (pid ") for text in caplog.messages)


def test_a_further_copy_takes_a_free_slice(play):
    async def scenario(machine: Machine) -> None:
        await machine.ready(1)
        answers = [Answer(f"{number}", 64) for number in range(40)]
        for answer in answers:  # the slots, those queued ahead, and more than two batches that wait
            machine.pool.submit([answer.flight])
        assert await machine.shown(2) == {
            "model/0": "NEURON_RT_VISIBLE_CORES=0-3",
            "model/1": "NEURON_RT_VISIBLE_CORES=4-7",
        }
        assert len([await answer.end() for answer in answers]) == 40

    play(scenario, "neuron:12", tensor_parallel_degree=4, minWorkers=1, maxWorkers=2)


@pytest.mark.parametrize(
    ("devices", "option"),
    [
        ("cuda:4", {"device": "cpu"}),
        ("cuda:4", {"load_on_devices": "cpu"}),
        ("neuron:4", {"device": "cpu"}),
        ("cpu", {}),
    ],
)
def test_a_copy_that_is_to_run_on_cpu_is_shown_no_gpu(play, monkeypatch, devices, option):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    async def scenario(machine: Machine) -> None:
        assert await machine.shown(1) == {"model/0": "CUDA_VISIBLE_DEVICES="}

    play(scenario, devices, **option)


@pytest.mark.parametrize("order", [None, "FASTEST_FIRST"])
def test_a_copy_counts_gpus_as_the_driver_does_unless_the_user_says_how(play, monkeypatch, order):
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    environ = {} if order is None else {"CUDA_DEVICE_ORDER": order}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    async def scenario(machine: Machine) -> None:
        assert await machine.shown(1) == {
            "model/0": f"CUDA_VISIBLE_DEVICES=1 CUDA_DEVICE_ORDER={order or 'PCI_BUS_ID'}"
        }

    play(scenario, "cuda:4", environ, load_on_devices="gpu1")
