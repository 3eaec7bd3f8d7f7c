# SPDX-License-Identifier: Apache-2.0
"""``lmi serve`` behind the emulator, started by it or not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from lmi.cli.sagemaker_local import sagemaker_local
from lmi.testing import write_tiny, write_tiny_adapter
from tests.core.archive_files import tar
from tests.sagemaker.emulators import QUICK, Emulator, emulator, refused
from tests.servers import eventually, in_threads
from tests.wire.conftest import faulty_path, serve_echo

__all__ = ["faulty_path"]

ECHO = ("-o", "rolling_batch=echo")


def body(n_tokens: int, **more: Any) -> str:
    return json.dumps({"inputs": "abc", "parameters": {"max_new_tokens": n_tokens}, **more})


@pytest.fixture(scope="module")
def local() -> Iterator[Emulator]:
    options = ("-o", "step_delay_ms=20", "-o", "max_rolling_batch_size=64")
    with emulator(*ECHO, *options, *QUICK, "--part-bytes", "7") as process:
        yield process


def text_of(answer: Any) -> str:
    content = b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"])
    text: str = json.loads(content.splitlines()[-1])["generated_text"]
    return text


def test_lmi_serve_keeps_the_contract(local: Emulator) -> None:
    answer = local.invoke(Body=body(5), ContentType="application/json")
    assert json.loads(answer["Body"].read()) == {"generated_text": "abcab"}
    assert text_of(local.stream(body(5, stream=True))) == "abcab"
    with refused("ModelError") as found:
        local.invoke(Body=body(0))
    assert found["OriginalStatusCode"] == 400
    assert not local.violations()


def test_who_asks_is_told_the_times_of_a_request(local: Emulator) -> None:
    whole = local.invoke(Body=body(5), ContentType="application/json", CustomAttributes="timings=true")
    stream = local.stream(body(5, stream=True), CustomAttributes="timings=true")
    assert text_of(stream) == "abcab"
    found, begun = (dict(each.split("=") for each in told["CustomAttributes"].split(";")) for told in (whole, stream))
    assert float(found["total_ms"]) > float(found["ttft_ms"])
    assert float(found["total_ms"]) >= 5 * 20 - 0.1  # told to a tenth
    assert (found["output_tokens"], "output_tokens" in begun) == ("5", False)
    assert float(begun["ttft_ms"]) >= 20
    assert "CustomAttributes" not in local.invoke(Body=body(5), ContentType="application/json")


def test_parts_are_as_long_as_wanted_and_not_longer(local: Emulator) -> None:
    events = list(local.stream(body(3, stream=True))["Body"])
    assert max(len(event["PayloadPart"]["Bytes"]) for event in events) == 7


def test_streams_run_beside_each_other(local: Emulator) -> None:
    n_tokens, n_streams = 40, 16
    lasts = in_threads([lambda: text_of(local.stream(body(n_tokens, stream=True)))] * n_streams)
    assert lasts == ["abc" * 13 + "a"] * n_streams


def test_a_client_that_leaves_ends_its_request(local: Emulator) -> None:
    [copy] = local.get("/endpoints")["Endpoints"][0]["copies"]

    def n_running() -> int:
        workers = httpx.get(f"{copy['url']}/health", trust_env=False).json()["models"][0]["workers"]
        return sum(worker["n_running"] for worker in workers)

    answer = local.stream(body(400, stream=True))
    next(iter(answer["Body"]))
    eventually(lambda: n_running() == 1)
    answer["Body"].close()
    eventually(lambda: n_running() == 0)


def test_a_server_that_runs_already_is_an_endpoint_too() -> None:
    with serve_echo() as server, emulator("--url", server.url, "--endpoint", "mine", *QUICK, is_ready=False) as local:
        local.in_service("mine")
        answer = local.invoke(endpoint="mine", Body=body(2))
        assert json.loads(answer["Body"].read()) == {"generated_text": "ab"}
        local.terminate()
        assert local.wait_for_end() == 0
        assert server.process.poll() is None


def test_models_have_endpoints_of_their_own_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serving.properties").write_text("option.rolling_batch=echo\n")
    words = ("one", f"second={tmp_path / 'two'}")
    with emulator(*words, "--endpoint", "first", *QUICK, cwd=tmp_path, is_ready=False) as local:
        for name in ("first", "second"):
            local.in_service(name)
            assert json.loads(local.invoke(endpoint=name, Body=body(2))["Body"].read()) == {"generated_text": "ab"}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("model", "--url", "http://localhost:1"), "Give one of MODEL, --url and --command"),
        (("a=x", "a=y"), "Two models have one name"),
        (("x", "--endpoint", "a_b"), "'a_b' is no name of an endpoint"),
        (("x", "--multi-model", "models"), "A multi-model endpoint has no MODEL"),
        (("--url", "http://localhost:1", "-o", "a=b"), "-o has no effect here"),
        (("--time", "lunch=3"), "'lunch' is no time; there are accept, ping,"),
        (("--time", "ping=soon"), "'soon' is no number of seconds"),
        (("--time", "ping=inf"), "'inf' is no number of seconds"),
        (("--command", "serve 'it"), "is no command: No closing quotation"),
        (("-e", "LONELY"), "'LONELY' is not written as NAME=VALUE"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(words: tuple[str, ...], part: str) -> None:
    done = CliRunner().invoke(sagemaker_local, list(words))
    assert done.exit_code == 2
    assert part in " ".join(done.output.replace("│", " ").split())


def test_a_multi_model_endpoint_loads_models_into_lmi_serve(tmp_path: Path) -> None:
    for name, length in (("short", 16), ("long", 64)):
        properties = f"option.rolling_batch=echo\noption.max_model_len={length}\n"
        tar(tmp_path / f"{name}.tar.gz", ("serving.properties", properties.encode()), mode="w:gz")
    with emulator("--multi-model", str(tmp_path), *QUICK) as local:
        for _ in range(2):
            answer = local.invoke(TargetModel="long.tar.gz", Body=body(30))
            assert json.loads(answer["Body"].read()) == {"generated_text": "abc" * 10}
            with refused("ModelError") as found:
                local.invoke(TargetModel="short.tar.gz", Body=body(30))
            assert "request.too-long" in found["OriginalMessage"]
        assert not local.violations()


def test_adapters_are_inference_components_of_lmi_serve(faulty_path: Path, tmp_path: Path) -> None:
    model = write_tiny("llama", tmp_path / "llama")
    write_tiny_adapter(tmp_path / "french", model)
    here = os.path.relpath(tmp_path / "french")  # the container has another folder to begin at
    words = (str(model), "-o", "rolling_batch=faulty", "-o", "offset=-33", "--adapter", f"french={here}")
    path = os.pathsep.join(filter(None, [str(faulty_path), os.environ.get("PYTHONPATH")]))
    with emulator(*words, *QUICK, environ={"PYTHONPATH": path}) as local:

        def text(component: str) -> str:
            answer = local.invoke(Body=body(6), InferenceComponentName=component)
            found: str = json.loads(answer["Body"].read())["generated_text"]
            return found

        assert text("french") != text("base")
        assert not local.violations()
