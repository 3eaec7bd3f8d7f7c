# SPDX-License-Identifier: Apache-2.0
"""A worker of several ranks: all of them do the same, and one that dies, hangs or fails ends all, with its reason."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.core.distributions import Distributions
from tests.limits import limit_s
from tests.servers import (
    ServerProcess,
    busy,
    eventually,
    in_threads,
    killed_under,
    ranks_of,
    serve,
    shared_memory,
    wait_for_ends,
    with_descendants,
)

RankedServer = Callable[..., AbstractContextManager[ServerProcess]]
ALPHABET = "abcdefghijklmnopqrstuvwxyz" * 8


@pytest.fixture(scope="module")
def serve_ranked(mpirun: str, tmp_path_factory: pytest.TempPathFactory) -> RankedServer:
    """``with serve_ranked(2, "load=raise") as server:``; the ranks write into ``server_logs``."""
    folder = tmp_path_factory.mktemp("site")
    code = (Path(__file__).parent / "ranked_backend.py").read_text()
    Distributions(folder).install("lmi-ranked", "lmi.backends", "ranked", code)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

    @contextmanager
    def start(
        n_ranks: int = 2, *options: str, logs: Path | None = None, is_ready: bool = True, **variables: str
    ) -> Iterator[ServerProcess]:
        flags = ("rolling_batch=ranked", f"tensor_parallel_degree={n_ranks}", "heartbeat_interval=0.2", *options)
        environ = {"PYTHONPATH": path, **({"RANKED_LOGS": str(logs)} if logs else {}), **variables}
        given = [word for flag in flags for word in ("-o", flag)]
        with serve(*given, environ=environ, is_ready=is_ready) as server:
            yield server

    return start


def text_after(letter: str, n: int) -> str:
    first = ALPHABET.index(letter) + 1
    return ALPHABET[first : first + n]


# ------------------------------------------------------------------------------------------------------ in step


@pytest.fixture(scope="module")
def server(serve_ranked: RankedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Three ranks that stay, for the tests that break nothing."""
    logs = tmp_path_factory.mktemp("logs")
    with serve_ranked(3, logs=logs) as server:
        server.logs = logs  # type: ignore[attr-defined]
        yield server


def logs_of(server: ServerProcess) -> list[list[str]]:
    """What each rank was told, without what differs."""
    files = sorted(server.logs.iterdir())  # type: ignore[attr-defined]
    return [[line for line in file.read_text().splitlines() if "variables" not in line] for file in files]


def steps_of_all(server: ServerProcess) -> list[list[str]]:
    """What each rank was told, if they are equally far; what is released last is told with the next step."""
    logs = logs_of(server)
    shortest = min(map(len, logs))
    is_even = all("release" in line for log in logs for line in log[shortest:])
    return [log[:shortest] for log in logs] if is_even else []


def test_all_ranks_do_what_rank_0_does_in_the_same_order(server: ServerProcess) -> None:
    prompts = [f"{letter * 3}" for letter in "adgjmpsvy"]
    answers = in_threads([lambda p=p: server.generate(p, max_new_tokens=20) for p in prompts])
    assert [each["generated_text"] for each in answers] == [text_after(p[-1], 20) for p in prompts]
    first, *others = eventually(lambda: steps_of_all(server))
    assert len(first) > 100
    assert others == [first, first]
    assert any("release" in line for line in first)


def test_each_rank_knows_its_place_by_the_variables_that_engines_read(server: ServerProcess) -> None:
    files = sorted(server.logs.iterdir())  # type: ignore[attr-defined]
    assert [file.read_text().splitlines()[0] for file in files] == [f"model variables {r} 3 {r} 3" for r in range(3)]


def test_the_smallest_cache_of_all_ranks_is_what_there_is(server: ServerProcess) -> None:
    assert eventually(lambda: server.workers()[0]["kv_total_tokens"]) == 2048 - 200


def test_ranks_that_wait_leave_the_processor_to_others(server: ServerProcess) -> None:
    server.generate("a", max_new_tokens=5)
    time.sleep(0.5)
    ranks = ranks_of(server)
    before_s, started_s = [sum(rank.cpu_times()[:2]) for rank in ranks], time.monotonic()
    time.sleep(limit_s(3))
    wall_s = time.monotonic() - started_s
    used = [(sum(rank.cpu_times()[:2]) - before) / wall_s for rank, before in zip(ranks, before_s, strict=True)]
    assert max(used) < 0.25, f"a rank that waits busily takes a whole core: {used}"


# -------------------------------------------------------------------------------------------------------- a draft


@pytest.mark.long
@pytest.mark.parametrize("place", ["first", "all"])
def test_a_draft_model_on_one_rank_or_all_guesses_and_is_corrected(
    serve_ranked: RankedServer, tmp_path: Path, place: str
) -> None:
    pytest.importorskip("torch")
    with serve_ranked(2, f"draft={place}", logs=tmp_path) as server:
        assert server.generate("ab", max_new_tokens=40)["generated_text"] == text_after("b", 40)
        worker = eventually(lambda: next((each for each in server.workers() if each["n_guessed_tokens"]), None))
        assert 0 < worker["n_accepted_tokens"] < worker["n_guessed_tokens"]
        first, second = (tmp_path / f"rank-{rank}.log" for rank in (0, 1))
        eventually(lambda: "model truncate" in second.read_text(), 60)  # what each rank imports takes a while
        assert "draft step" in first.read_text()
        assert ("draft step" in second.read_text()) == (place == "all")


# --------------------------------------------------------------------------------------------------- going wrong


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_rank_that_is_killed_ends_the_others_and_nothing_is_lost(serve_ranked: RankedServer, victim: int) -> None:
    with serve_ranked(2, "step_s=0.01") as server:
        old = ranks_of(server)
        everybody = [each for rank in old for each in with_descendants(rank)]
        calls = [lambda p=p: server.generate(p, max_new_tokens=150) for p in "ax"]
        answers, _ = killed_under(server, calls, busy(2, "n_running", instead=old[victim].pid))
        assert [each["generated_text"] for each in answers] == [text_after("a", 150), text_after("x", 150)]
        wait_for_ends(everybody)
        server.wait_for_line(rf"worker model/0 .* ended: rank {victim} of 2 was killed by SIGKILL")
        assert {rank.pid for rank in ranks_of(server)}.isdisjoint(rank.pid for rank in old)


def test_ranks_listen_on_loopback_or_within_the_safe_range(serve_ranked: RankedServer) -> None:
    with serve_ranked(2, SAGEMAKER_SAFE_PORT_RANGE="20200-20299") as server:
        [mpirun] = server.worker_pids()
        listening = [
            each.laddr
            for process in with_descendants(psutil.Process(mpirun))
            for each in process.net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        ]
    assert any(20200 <= each.port <= 20299 for each in listening)
    assert not [each for each in listening if not (each.ip.startswith("127.") or 20200 <= each.port <= 20299)]


def test_a_killed_rank_is_noticed_within_five_seconds(serve_ranked: RankedServer) -> None:
    with serve_ranked(2) as server:
        [worker] = server.worker_pids()
        ranks_of(server)[1].kill()
        eventually(lambda: server.worker_pids() != [worker], 5)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("die*1", r"rank 1 of 2 \(pid \d+ on \S+\) is gone|ended: rank 1 of 2 was killed by SIGKILL"),
        pytest.param(
            "raise*1",
            r"rank 1 of 2 \(pid \d+ on \S+\): ValueError: this rank was told to raise",
            marks=pytest.mark.long,
        ),
        pytest.param("exit*1", r"rank 1 of 2 \(pid \d+ on \S+\): SystemExit: 3", marks=pytest.mark.long),
        pytest.param("raise*0", r"a step failed with ValueError: this rank was told to raise", marks=pytest.mark.long),
    ],
)
def test_a_request_that_ends_a_rank_fails_alone_with_the_reason(
    serve_ranked: RankedServer, command: str, said: str
) -> None:
    with serve_ranked(2, "step_s=0.02") as server:
        answer = server.post({"inputs": command, "parameters": {"max_new_tokens": 500}})
        assert "engine.killed-by-request" in answer.text
        server.wait_for_line(said)
        server.wait_until_ready()
        assert server.generate("c", max_new_tokens=3)["generated_text"] == "def"


@pytest.mark.long
def test_a_rank_that_hangs_is_named_and_ends_with_the_others(serve_ranked: RankedServer) -> None:
    with serve_ranked(2) as server:
        old = ranks_of(server)
        old[1].suspend()
        server.wait_for_line(r"rank 1 of 2 \(pid \d+ on \S+\) hangs: it was silent for \d+ s", 60)
        wait_for_ends(old)
        server.wait_until_ready()
        assert server.generate("c", max_new_tokens=3)["generated_text"] == "def"


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ("raise", r"engine\.load-failed: rank 1 of 2 .*: ranked could not load its engine: ValueError: no weights"),
        pytest.param(
            "refuse",
            r"engine\.odd: rank 1 of 2 .*: this rank has the wrong weights\. Copy them again",
            marks=pytest.mark.long,
        ),
        pytest.param("exit", r"rank 1 of 2 .*(is gone|exited with code 5)", marks=pytest.mark.long),
        ("other", r"engine\.ranks-disagree: rank 1 loaded RankedStepper with .*max_slots=5"),
    ],
)
def test_a_rank_that_cannot_load_ends_the_start_with_its_reason(
    serve_ranked: RankedServer, load: str, said: str
) -> None:
    with serve_ranked(2, f"load={load}", is_ready=False) as server:
        server.wait_for_line(said)
        assert server.wait_for_end() == 1


# ---------------------------------------------------------------------------------------------- whole calls


def shares(server: ServerProcess, *texts: str) -> list[dict[str, float]]:
    """The labels of each text."""
    answers = server.post({"inputs": list(texts)}).json()
    return [{label["label"]: label["score"] for label in labels} for labels in answers]


def test_all_ranks_compute_the_same_calls_in_the_same_order(serve_ranked: RankedServer, tmp_path: Path) -> None:
    texts = [f"{'a' * n}{'b' * (8 - n)}" for n in range(8)]
    with serve_ranked(3, "task=text-classification", logs=tmp_path) as server:
        found = in_threads([lambda t=t: shares(server, t, "ab") for t in texts])
        assert [each[0]["LABEL_0"] for each in found] == [n / 8 for n in range(8)]
        assert all(each[1] == {"LABEL_0": 0.5, "LABEL_1": 0.5} for each in found)

        def logs() -> list[list[str]]:
            return [file.read_text().splitlines() for file in sorted(tmp_path.iterdir())]

        first, *others = eventually(lambda: (found := logs()) and len({len(each) for each in found}) == 1 and found)
        assert len(first) == 16
        assert others == [first, first]
        server.terminate()
        assert server.wait_for_end() == 0
    assert [each[-1] for each in logs()] == ["model close"] * 3


@pytest.mark.long
def test_labels_are_given_by_the_next_worker_when_a_rank_dies(serve_ranked: RankedServer) -> None:
    with serve_ranked(2, "task=text-classification", "step_s=0.2") as server:
        old = ranks_of(server)
        calls = [lambda t=t: shares(server, *[t] * 8) for t in ("ab", "aab")]
        (first, second), _ = killed_under(server, calls, busy(1, "n_running", instead=old[1].pid))
        assert [each["LABEL_0"] for each in (*first, *second)] == [0.5] * 8 + [2 / 3] * 8
        assert {rank.pid for rank in ranks_of(server)}.isdisjoint(rank.pid for rank in old)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param(
            "die*1",
            r"rank 1 of 2 \(pid \d+ on \S+\) is gone|ended: rank 1 of 2 was killed by SIGKILL",
            marks=pytest.mark.long,
        ),
        ("raise*1", r"rank 1 of 2 \(pid \d+ on \S+\): ValueError: this rank was told to raise"),
        pytest.param(
            "raise*0", r"the model failed with ValueError: this rank was told to raise", marks=pytest.mark.long
        ),
    ],
)
def test_a_text_that_ends_a_rank_fails_alone_with_the_reason(
    serve_ranked: RankedServer, command: str, said: str
) -> None:
    with serve_ranked(2, "task=text-classification") as server:
        answer = server.post({"inputs": [command, *["a"] * 3]})
        assert "engine.killed-by-request" in answer.text
        server.wait_for_line(said)
        server.wait_until_ready()
        assert shares(server, "a") == [{"LABEL_0": 1.0, "LABEL_1": 0.0}]


@pytest.mark.long
def test_a_whole_request_whose_rank_dies_is_told_so_and_the_next_one_is_answered(serve_ranked: RankedServer) -> None:
    with serve_ranked(2, "task=fill-mask", "step_s=1") as server:
        assert server.post({"inputs": "ab"}).json() == {"text": "ab", "shares": [0.5, 0.5]}
        assert server.post({"inputs": "ab", "parameters": {"zzz": 1}}).status_code == 400
        old = ranks_of(server)
        asked = [lambda: server.post({"inputs": "aaa"})]
        [answer], _ = killed_under(server, asked, busy(1, "n_running", instead=old[1].pid))
        assert (answer.status_code, answer.json()["error"]) == (500, "engine.died")
        server.wait_until_ready()
        assert server.post({"inputs": "a"}).json() == {"text": "a", "shares": [1.0, 0.0]}


def test_ranks_that_answer_differently_are_refused_at_the_start(serve_ranked: RankedServer) -> None:
    with serve_ranked(2, "task=fill-mask", "load=other", is_ready=False) as server:
        server.wait_for_line(
            r"engine\.ranks-disagree: rank 1 loaded RankedRunner with AnswererLimits\(max_context_tokens=100"
        )
        assert server.wait_for_end() == 1


# ----------------------------------------------------------------------------------------------- nothing stays


def test_no_rank_outlives_a_server_that_is_killed(serve_ranked: RankedServer) -> None:
    with serve_ranked(2) as server:
        [worker] = server.worker_pids()
        everybody = with_descendants(psutil.Process(worker))
        assert len(everybody) >= 3
        server.process.kill()
        wait_for_ends(everybody)


def test_no_rank_outlives_a_server_and_an_mpirun_that_are_killed_together(serve_ranked: RankedServer) -> None:
    with serve_ranked(2) as server:
        [worker] = server.worker_pids()
        everybody = with_descendants(psutil.Process(worker))
        os.kill(worker, signal.SIGKILL)
        server.process.kill()
        wait_for_ends(everybody)


@pytest.mark.parametrize("n_cycles", [2, pytest.param(20, marks=pytest.mark.long)])
def test_starts_and_stops_leave_no_process_socket_or_shared_memory(
    serve_ranked: RankedServer, tmp_path: Path, n_cycles: int
) -> None:
    before, folder = shared_memory(), tmp_path / "t"
    folder.mkdir()
    for number in range(n_cycles):
        with serve_ranked(2, TMPDIR=str(folder)) as server:
            [worker] = server.worker_pids()
            everybody = with_descendants(psutil.Process(worker))
            assert server.generate("c", max_new_tokens=3)["generated_text"] == "def"
            if number % 3 == 1:  # a worker that is killed leaves no more than one that ends
                os.kill(worker, signal.SIGKILL)
            server.terminate()
            assert server.wait_for_end() == 0
            wait_for_ends(everybody)
        assert list(folder.iterdir()) == []
    assert shared_memory() - before == set()


# --------------------------------------------------------------------------------------------- several machines


def test_a_host_file_says_where_the_ranks_run(serve_ranked: RankedServer, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    with serve_ranked(2, f"mpi_hostfile={hosts}", "mpi_arguments=--report-bindings", "env=RANKED_WORD=x") as server:
        assert server.generate("c", max_new_tokens=3)["generated_text"] == "def"
        [worker] = server.worker_pids()
        command = psutil.Process(worker).cmdline()
        assert "--report-bindings" in command
        assert [rank.environ()["RANKED_WORD"] for rank in ranks_of(server)] == ["x", "x"]
    hosts.write_text("localhost slots=1\n")
    with serve_ranked(2, f"mpi_hostfile={hosts}", is_ready=False) as server:
        server.wait_for_line(r"\[device\.too-few\] tensor_parallel_degree=2, and .*/hosts lists 1 slot on 1 machine")
        assert server.wait_for_end() == 2
