# SPDX-License-Identifier: Apache-2.0
"""A journal of adapters with real worker processes, for tests that look at what each of them holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmi.api import Finish, GenerationRequest, LmiError, Progress, SamplingParams, TokenChunk
from lmi.config.model_entries import ModelEntry
from lmi.loading import plan
from lmi.plugins import Plugins
from lmi.serving.adapter_entries import AdapterWish
from lmi.serving.adapters import AdapterJournal
from lmi.workers.flight import Flight
from lmi.workers.pool import WorkerPool
from lmi.workers.worker import Worker
from tests.core.distributions import Distributions
from tests.limits import limit_s


def fine() -> None:
    """Nothing is wrong with the files."""


class Rig:
    """A journal, its pool, and folders of adapters that load as they are told."""

    def __init__(self, journal: AdapterJournal, pool: WorkerPool, folder: Path) -> None:
        self.journal = journal
        self.pool = pool
        self.folder = folder

    def adapter(self, name: str, fault: str = "") -> Path:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        if fault:
            (path / "fault.txt").write_text(fault)
        return path

    async def add(self, name: str, fault: str = "", **wishes: Any) -> None:
        await self.take(self.adapter(name, fault), **wishes)

    async def take(
        self, folder: Path, check: Callable[[], object] = fine, journal: AdapterJournal | None = None, **wishes: Any
    ) -> None:
        """Ask a journal for the adapter in a folder, under the folder's name."""

        def bring(progress: Progress) -> Path:
            check()
            return folder

        wish = AdapterWish(name=folder.name, src=str(folder), **wishes)
        await (journal or self.journal).add(wish, bring)

    async def until(self, check: Callable[[], Any]) -> None:
        async def look() -> None:
            while not check():
                await asyncio.sleep(0.01)

        await asyncio.wait_for(look(), limit_s(20))

    async def ready(self, n_workers: int = 1) -> list[Worker]:
        await self.until(lambda: sum(worker.takes_requests for worker in self.pool.workers) == n_workers)
        return list(self.pool.workers)

    async def held(self) -> list[list[str]]:
        """What the engines say that they hold."""
        return [sorted(await worker.call("adapters", "list_adapters")) for worker in self.pool.workers]

    def within(self, limit_s: float) -> AdapterJournal:
        """Another journal for the same workers, with so long for a load."""
        options = self.pool.plan.options.model_copy(update={"model_loading_timeout": limit_s})
        return AdapterJournal(replace(self.pool.plan, options=options), lambda: self.pool, {})

    def names(self) -> list[str]:
        return [each["name"] for each in self.journal.described()]

    def submit(self, name: str, n_tokens: int) -> asyncio.Future[str]:
        """A request for an adapter, and its text to come."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        ids: list[int] = []

        def take(chunk: TokenChunk) -> None:
            ids.extend(chunk.ids)
            if isinstance(chunk.finish, Finish):
                future.set_result(bytes(ids).decode())

        request = GenerationRequest(
            request_id=f"{name}-{id(future)}",
            prompt_ids=[65],
            sampling=SamplingParams(max_tokens=n_tokens),
            adapter=name,
        )
        self.pool.submit([Flight(request, take, future.set_exception)])
        return future


Scenario = Callable[[Rig], Awaitable[None]]


@pytest.fixture(scope="module")
def faulty_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    code = (Path(__file__).parents[1] / "faults" / "faulty_backend.py").read_text()
    Distributions(folder).install("lmi-faulty", "lmi.backends", "faulty", code)
    return folder


@pytest.fixture
def play(faulty_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a scenario with a model whose options are given."""
    monkeypatch.syspath_prepend(faulty_path)
    monkeypatch.setenv("PYTHONPATH", str(faulty_path))

    def run(scenario: Scenario, **options: object) -> None:
        flags = {"rolling_batch": "faulty", **{key: str(value) for key, value in options.items()}}
        found = Plugins.discover({})
        made = plan(ModelEntry(), flags=flags, environ={}, plugins=found, default_folder=Path("/no/such"))

        async def main() -> None:
            failures: list[LmiError] = []
            journal = AdapterJournal(made, lambda: pool, found.backends)
            pool = WorkerPool(
                made,
                on_state=journal.note,
                on_failed=lambda error, worker: failures.append(error),
                adapters=journal.wanted,
            )
            pool.fill()
            try:
                await asyncio.wait_for(scenario(Rig(journal, pool, tmp_path)), limit_s(60))
            finally:
                await pool.close()
            assert failures == []

        asyncio.run(main())

    return run
