# SPDX-License-Identifier: Apache-2.0
"""The backend `neuronx` behind real HTTP, in real processes, on a stand-in of Neuron's libraries and devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.backends.neuron_standin import recorded, serving
from tests.servers import ServerProcess, eventually, in_threads

PROMPTS = ["Once upon a time", "a", "The quick brown fox jumps over the lazy dog. " * 2, "Hello", "x y z", "again"]


@pytest.fixture(scope="module")
def server(neuron_machine: Path, tiny_llama: Path) -> Iterator[ServerProcess]:
    options = {"tensor_parallel_degree": 4, "n_positions": 256, "max_rolling_batch_size": 3}
    with serving(neuron_machine, str(tiny_llama), options=options) as running:
        yield running


def tokens(server: ServerProcess, prompt: str, **parameters: Any) -> list[int]:
    wanted = {"max_new_tokens": 40, "ignore_eos_token": True, **parameters}
    return [line["token"]["id"] for line in server.stream(prompt, **wanted)]


def test_requests_that_come_and_go_in_three_slots_get_the_tokens_they_get_alone(server: ServerProcess) -> None:
    lengths = [60, 5, 33, 12, 47, 20]
    requests = list(zip(PROMPTS, lengths, strict=True))
    alone = [tokens(server, prompt, max_new_tokens=length) for prompt, length in requests]
    assert [len(each) for each in alone] == lengths
    calls = [lambda p=prompt, n=length: tokens(server, p, max_new_tokens=n) for prompt, length in requests]
    assert in_threads(calls) == alone


def test_sampled_requests_repeat_with_their_seed(server: ServerProcess) -> None:
    sampled = {"do_sample": True, "temperature": 2.0, "top_k": 50, "seed": 7}
    first = tokens(server, "Hello", **sampled)
    beside = in_threads([lambda: tokens(server, "Hello", **sampled), lambda: tokens(server, "x", max_new_tokens=90)])
    assert beside[0] == first
    assert tokens(server, "Hello", **{**sampled, "seed": 8}) != first


def test_log_probabilities_are_left_out_and_refused_by_name(server: ServerProcess) -> None:
    answer = server.generate("Hello", max_new_tokens=3, details=True)
    assert [sorted(each) for each in answer["details"]["tokens"]] == [["id", "text"]] * 3
    assert all("log_prob" not in line["token"] for line in server.stream("Hello", max_new_tokens=3, details=True))
    for asked in ({"top_n_tokens": 2}, {"decoder_input_details": True}):
        refused = server.post({"inputs": "Hello", "parameters": {"details": True, **asked}})
        assert refused.status_code == 400
        assert "request.unsupported" in refused.text
        assert "neuronx" in refused.text


def test_a_prompt_that_is_longer_than_what_was_compiled_is_refused(server: ServerProcess) -> None:
    refused = server.post({"inputs": "word " * 200, "parameters": {"max_new_tokens": 100}})
    assert (refused.status_code, "request.too-long" in refused.text) == (400, True)
    assert "maximum context length is 256" in refused.text


PROPERTIES = (
    "engine=Python\noption.tensor_parallel_degree=4\noption.model_id={model}\n"
    "option.entryPoint=djl_python.transformers_neuronx\noption.max_rolling_batch_size=8\n"
    "option.rolling_batch=auto\noption.model_loading_timeout=1600\n"
)
VARIABLES = {
    "SERVING_LOAD_MODELS": "test::Python={model}", "OPTION_MODEL_ID": "{model}",
    "OPTION_ENTRYPOINT": "djl_python.transformers_neuronx", "OPTION_TENSOR_PARALLEL_DEGREE": "4",
    "OPTION_MAX_ROLLING_BATCH_SIZE": "8", "OPTION_ROLLING_BATCH": "auto", "OPTION_MODEL_LOADING_TIMEOUT": "1600",
}  # fmt: skip


@pytest.mark.parametrize("form", ["serving.properties", "variables"])
def test_the_samples_of_the_guide_are_served(form: str, neuron_machine: Path, tiny_llama: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    environ = {"STANDIN_NEURON_RECORD": str(record)}
    args = []
    if form == "variables":
        environ |= {name: value.format(model=tiny_llama) for name, value in VARIABLES.items()}
    else:
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / "serving.properties").write_text(PROPERTIES.format(model=tiny_llama))
        args = [str(tmp_path / "served")]
    with serving(neuron_machine, *args, **environ) as running:
        path = "/predictions/test" if form == "variables" else "/invocations"
        answer = running.post({"inputs": "Hello", "parameters": {"max_new_tokens": 5}}, path=path)
        assert answer.status_code == 200, answer.text
    (call,) = recorded(record, "from_pretrained")
    assert (call["of"], call["tp_degree"], call["batch_size"]) == ("LlamaForSampling", 4, 8)
    assert (call["n_positions"], call["amp"]) == ([128], "f16")


def test_requests_go_on_after_a_worker_died_in_a_step(neuron_machine: Path, tiny_llama: Path, tmp_path: Path) -> None:
    options = {"tensor_parallel_degree": 4, "n_positions": 256, "max_rolling_batch_size": 3}
    failing = {"STANDIN_NEURON_FAIL": "die:80", "STANDIN_NEURON_FAIL_ONCE": str(tmp_path / "failed")}
    with serving(neuron_machine, str(tiny_llama), options=options, **failing) as running:
        prompts = PROMPTS[:3]
        calls = [lambda p=prompt: tokens(running, p, max_new_tokens=100) for prompt in prompts]
        before = in_threads(calls)  # the device fails while these run
        assert (tmp_path / "failed").exists()
        assert [tokens(running, prompt, max_new_tokens=100) for prompt in prompts] == before


def test_each_copy_owns_its_cores(neuron_machine: Path, tiny_llama: Path, tmp_path: Path) -> None:
    options = {"tensor_parallel_degree": 2, "n_positions": 256, "max_rolling_batch_size": 2, "rolling_batch": "neuronx"}
    with serving(neuron_machine, str(tiny_llama), options=options, STANDIN_NEURON_LOCKS=str(tmp_path)) as running:
        eventually(lambda: [worker["state"] for worker in running.workers()] == ["ready"] * 2, 120)
        assert sorted(path.name for path in tmp_path.glob("core*")) == [f"core{number}" for number in range(4)]
        assert in_threads([lambda: len(tokens(running, "Hello"))] * 4) == [40] * 4


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"STANDIN_NEURON_FAIL": "memory"}, r"engine\.out-of-memory: the NeuronCores are full"),
        ({"STANDIN_NEURON_COMPILER": "2.1", "OPTION_COMPILED_GRAPH_PATH": "{graph}"}, r"engine\.load-failed"),
    ],
)
def test_a_load_that_fails_says_why_and_ends_the_server(
    environ: Mapping[str, str], words: str, neuron_machine: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.neff").touch()
    chosen = {name: value.format(graph=tmp_path) for name, value in environ.items()}
    with serving(
        neuron_machine, str(tiny_llama), options={"tensor_parallel_degree": 4}, is_ready=False, **chosen
    ) as running:
        running.wait_for_line(words, 120)
        assert running.wait_for_end(60) != 0


def test_compiling_is_told_while_it_lasts(neuron_machine: Path, tiny_llama: Path) -> None:
    options = {"tensor_parallel_degree": 4}
    with serving(
        neuron_machine, str(tiny_llama), options=options, is_ready=False, STANDIN_NEURON_COMPILE_S="1.5"
    ) as running:
        stages = set()
        while not any("is ready: " in line for line in running.lines):
            stages |= {str(each.get("stage")) for model in running.health()["models"] for each in model["workers"]}
            assert running.process.poll() is None, running.output
        assert any("compile" in stage for stage in stages), stages
