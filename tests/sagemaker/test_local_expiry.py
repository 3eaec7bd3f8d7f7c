# SPDX-License-Identifier: Apache-2.0
"""Asynchronous requests that wait too long for their turn; the shortest time is made shorter than a minute."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from lmi import sagemaker_limits
from lmi.client import Target
from lmi.sagemaker_local.app import build_app
from lmi.sagemaker_local.asynchronous import Asynchronous
from lmi.sagemaker_local.container import Container, State
from lmi.sagemaker_local.endpoint import Endpoint
from lmi.sagemaker_local.objects import Objects
from lmi.sagemaker_local.times import Times
from lmi.sagemaker_local.violations import Violations
from tests.limits import limit_s

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone"


class Rig:
    """One copy of a container that answers when it is told to, and the emulator's application before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_asked = 0
        self.may_answer = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.n_asked += 1
        await self.may_answer.wait()
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async def client(self, port: int) -> httpx.AsyncClient:
        violations = Violations()
        endpoint = Endpoint(name="model", times=Times(), violations=violations)
        self.copy = Container(
            endpoint="model", name="model/0", target=Target(host="127.0.0.1", port=port), launch=None, port=port,
            times=endpoint.times, violations=violations, on_healthy=endpoint.became_healthy, state=State.HEALTHY,
        )  # fmt: skip
        endpoint.copies = [self.copy]
        await endpoint.became_healthy(self.copy)
        objects, root = Objects(self.folder), (self.folder / "output").as_uri()
        app = build_app({"model": endpoint}, Asynchronous(objects, root, 1, violations), violations)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://local")

    async def outcome(self, answer: httpx.Response) -> tuple[str, str]:
        """Which of the two files was written, and what is in it."""
        assert answer.status_code == 202
        urls = {kind: answer.headers[f"x-amzn-sagemaker-{kind}location"] for kind in ("output", "failure")}
        for _ in range(int(limit_s(10) / 0.02)):
            for kind, url in urls.items():
                path = Path(httpx.URL(url).path)
                if path.exists():
                    return kind, path.read_text()
            await asyncio.sleep(0.02)
        raise AssertionError("no file was written")


async def ask(client: httpx.AsyncClient, age_s: int) -> httpx.Response:
    headers = {"x-amzn-sagemaker-requestttlseconds": str(age_s)}
    return await client.post("/endpoints/model/async-invocations", content=b"{}", headers=headers)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sagemaker_limits, "ASYNC_AGE_RANGE_S", (1, 21_600))


def test_a_request_that_waits_longer_than_it_may_has_expired_and_never_reaches_the_container(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        server = await asyncio.start_server(rig.serve, "127.0.0.1", 0)
        async with server, await rig.client(server.sockets[0].getsockname()[1]) as client:
            first, second, third = [await ask(client, age_s) for age_s in (600, 1, 600)]
            await asyncio.sleep(1.2)
            rig.may_answer.set()
            assert await rig.outcome(first) == ("output", "done")
            kind, text = await rig.outcome(second)
            assert (kind, text.partition(":")[0]) == ("failure", "The request has expired")
            assert text.endswith("s of 1 s for its turn.")
            assert await rig.outcome(third) == ("output", "done")
        assert rig.n_asked == 2

    asyncio.run(run())


def test_a_request_whose_container_never_gets_well_expires(tmp_path: Path) -> None:
    async def run() -> None:
        rig = Rig(tmp_path)
        async with await rig.client(1) as client:
            rig.copy.state = State.UNHEALTHY
            kind, text = await rig.outcome(await ask(client, 1))
            assert (kind, text.partition(":")[0]) == ("failure", "The request has expired")
            rig.copy.state = State.FAILED
            assert await rig.outcome(await ask(client, 600)) == (
                "failure", "No container of the endpoint is healthy. Try your call again."
            )  # fmt: skip

    asyncio.run(run())


@pytest.mark.parametrize("seconds", ["0", "21601"])
def test_an_age_that_no_request_may_have_is_refused(tmp_path: Path, seconds: str) -> None:
    async def run() -> None:
        async with await Rig(tmp_path).client(1) as client:
            answer = await ask(client, int(seconds))
            assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (400, "ValidationError")

    asyncio.run(run())
