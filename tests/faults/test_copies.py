# SPDX-License-Identifier: Apache-2.0
"""The number of copies follows the queue, between minWorkers and maxWorkers."""

from tests.faults.conftest import FaultyServer
from tests.servers import eventually, in_threads


def test_a_second_copy_starts_when_two_batches_wait_and_leaves_when_it_is_idle(serve_faulty: FaultyServer) -> None:
    options = ("maxWorkers=2", "max_rolling_batch_size=1", "max_idle_time=1", "step_s=0.05")
    with serve_faulty(*(part for option in options for part in ("-o", option))) as server:
        assert len(server.workers()) == 1

        def watch() -> str:
            eventually(lambda: [w["state"] for w in server.workers()] == ["ready", "ready"])
            return ""

        calls = [lambda: server.generate("abc", max_new_tokens=40)["generated_text"] for _ in range(6)]
        *texts, _ = in_threads([*calls, watch])
        assert texts == [("abc" * 40)[:40]] * 6
        eventually(lambda: len(server.workers()) == 1)
        assert server.health()["models"][0]["n_worker_deaths"] == 0
        assert server.generate("abc", max_new_tokens=3)["generated_text"] == "abc"
