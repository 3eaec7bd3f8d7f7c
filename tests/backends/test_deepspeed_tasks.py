# SPDX-License-Identifier: Apache-2.0
"""Labels, words, masks and questions on real servers, on one rank and on two: what transformers makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.backends.task_models import from_pipeline, is_alike, write_task_model, write_word_tokenizer
from tests.limits import limit_s
from tests.servers import ServerProcess, busy, eventually, in_threads, killed_under, ranks_of, serve

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("mpirun")

LOAD_S = 240
TEXTS = ["Ada lives in London", "she works at a big old bank near the river.", "Paris"]
QUESTION = {"question": "Where does Ada live?", "context": f"{TEXTS[0]} and {TEXTS[1]}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("models")
    return cache(lambda task, *more: write_task_model(root / "-".join((task, *map(str, more))), task, *more))


@contextmanager
def running(path: Path, backend: str, n_ranks: int, *options: str) -> Iterator[ServerProcess]:
    if backend == "deepspeed":
        pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install 'lmi-deepspeed[engine]'")
    flags = (f"rolling_batch={backend}", f"tensor_parallel_degree={n_ranks}", "dtype=fp32", "heartbeat_interval=0.2")
    given = [word for flag in (*flags, *options) for word in ("-o", flag)]
    with serve(str(path), *given, is_ready=False) as server:
        yield server.wait_until_ready(LOAD_S)


def body_of(task: str) -> dict[str, Any]:
    """A body for each task, with parameters."""
    return {
        "text-classification": {"inputs": TEXTS, "parameters": {"top_k": 3}},
        "token-classification": {"inputs": TEXTS, "parameters": {"aggregation_strategy": "simple"}},
        "fill-mask": {"inputs": ["ada lives in [MASK]", "[MASK] works"], "parameters": {"top_k": 4}},
        "question-answering": {"inputs": QUESTION, "parameters": {"top_k": 2}},
    }[task]


def expected(path: Path, task: str) -> Any:
    """What transformers' own pipeline answers; None for questions, for which it has none."""
    body = body_of(task)
    if task == "question-answering":
        return None
    found = from_pipeline(path, task, body["inputs"], **body["parameters"])
    return json.loads(json.dumps(found, default=float))


def check_answer(server: ServerProcess, task: str, whole: Any) -> Any:
    """The answer, which must be that of transformers, or of another server."""
    response = server.post(body_of(task))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert is_alike(answer, whole if whole is not None else answer), (answer, whole)
    return answer


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "others"),
    [
        ("text-classification", [("hf", 1)]),
        ("token-classification", [("deepspeed", 1)]),
        ("fill-mask", []),
        # first, since transformers has no pipeline to compare with
        ("question-answering", [("hf", 1)]),
    ],
)
def test_a_model_on_two_ranks_and_on_one_answers_as_transformers_does(
    folder: Callable[..., Path], task: str, others: list[tuple[str, int]]
) -> None:
    path = folder(task)
    whole = expected(path, task)
    for backend, n_ranks in (*others, ("deepspeed", 2)):
        with running(path, backend, n_ranks, f"task={task}") as server:
            whole = check_answer(server, task, whole)
            assert len(ranks_of(server)) == (n_ranks if n_ranks > 1 else 0)


@pytest.mark.long
def test_roberta_is_split_and_answers_many_at_a_time_until_a_rank_dies_and_again(folder: Callable[..., Path]) -> None:
    path = folder("text-classification", "roberta")
    named = [
        {each["label"]: each["score"] for each in of}
        for of in from_pipeline(path, "text-classification", TEXTS, top_k=None)
    ]

    def label(server: ServerProcess, index: int) -> bool:
        (found,) = server.post({"inputs": TEXTS[index : index + 1]}).json()
        return is_alike({each["label"]: each["score"] for each in found}, named[index])

    with running(path, "deepspeed", 2) as server:
        calls = [lambda index=number % 3: label(server, index) for number in range(9)]
        assert all(in_threads(calls))
        [mpirun] = server.worker_pids()
        found, _ = killed_under(server, calls, busy(1, instead=ranks_of(server)[-1].pid))
        assert all(found)
        assert eventually(server.worker_pids) != [mpirun]


@pytest.mark.parametrize(
    ("task", "body", "code", "said"),
    [
        ("fill-mask", {"inputs": "no gap"}, "request.no-mask", "inputs has no [MASK]"),
        ("fill-mask", {"inputs": "[MASK]", "parameters": {"topk": 1}}, "request.invalid", "Did you mean 'top_k'?"),
        ("fill-mask", {"inputs": "[MASK] " * 70}, "request.too-long", "has 72 tokens; this model takes 64"),
        ("fill-mask", {"inputs": "[MASK]", "stream": True}, "request.wrong-task", "model 'model' fills masks"),
        ("fill-mask", {"inputs": 3}, "request.invalid", "inputs must be a text or a list of them"),
    ],
)
def test_a_wrong_body_is_the_callers_fault_and_harms_nobody(
    masks: ServerProcess, task: str, body: dict[str, Any], code: str, said: str
) -> None:
    response = masks.post(body)
    assert (response.status_code, response.json()["error"]) == (400, code)
    assert said in response.json()["message"]
    assert masks.post({"inputs": "ada lives in [MASK]"}).status_code == 200


@pytest.fixture(scope="module")
def masks(folder: Callable[..., Path]) -> Iterator[ServerProcess]:
    with running(folder("fill-mask"), "deepspeed", 2) as server:
        yield server


def test_other_routes_say_what_the_model_does(masks: ServerProcess) -> None:
    response = masks.post({"input": "a"}, "/v1/embeddings")
    assert response.status_code == 400
    assert "model 'model' fills masks" in response.json()["error"]["message"]


def test_the_command_that_is_shown_at_the_start_is_answered(masks: ServerProcess) -> None:
    masks.wait_for_line(r'try: curl -s .*-d \'\{"inputs": "The capital of France is \[MASK\]\."\}\'')
    assert masks.post({"inputs": "The capital of France is [MASK]."}).status_code == 200


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("fill-mask", ("task=question-answering",), "BertForMaskedLM has no head for it; it fills masks"),
        ("fill-mask", ("task=text-generation",), "BertForMaskedLM does not continue a text; it fills masks"),
        ("fill-mask", ("task=feature-extraction",), "deepspeed generates text, gives labels, labels words, fills"),
        ("fill-mask", ("task=summarization",), "'option.task' is 'summarization'; deepspeed generates text"),
        ("fill-mask", ("task=fil-mask",), "Did you mean 'fill-mask'?"),
        ("fill-mask", ("tensor_parallel_degree=3",), "3, which does not divide the model's 4 attention heads"),
        ("fill-mask", ("save_mp_checkpoint_path=/x",), "the model fills masks; shards are of models that generate"),
    ],
)
def test_check_tells_what_stops_a_task(
    folder: Callable[..., Path], task: str, options: tuple[str, ...], said: str
) -> None:
    flags = [word for option in ("rolling_batch=deepspeed", *options) for word in ("-o", option)]
    command = [str(Path(sys.executable).with_name("lmi")), "check", str(folder(task)), *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit_s(60), check=False)
    assert run.returncode != 0
    assert said in " ".join((run.stdout + run.stderr).split())


@pytest.mark.parametrize("backend", ["deepspeed", "hf"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "T5ForConditionalGeneration has an encoder and a decoder, and encoder-decoder models are not served: con"),
        (("task=text2text-generation",), "task is text2text-generation, and encoder-decoder models are not served"),
    ],
)
def test_a_model_with_encoder_and_decoder_is_refused_with_the_reason(
    tmp_path: Path, backend: str, options: tuple[str, ...], said: str
) -> None:
    config = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True}
    write_word_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = [word for option in (f"rolling_batch={backend}", *options) for word in ("-o", option)]
    command = [str(Path(sys.executable).with_name("lmi")), "check", str(tmp_path), *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit_s(60), check=False)
    told = " ".join((run.stdout + run.stderr).split())
    assert (run.returncode != 0, said in told, "No backend of LMI serves them" in told) == (True, True, True), told
