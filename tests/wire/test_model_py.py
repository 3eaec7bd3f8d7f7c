# SPDX-License-Identifier: Apache-2.0
"""A model's own model.py behind a real server: as a custom handler, as an extension, and refused."""

from __future__ import annotations

import http.client
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.limits import limit_s
from tests.servers import ServerProcess, eventually, in_threads, serve

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parent / "model_files"
FAST = ("-o", "heartbeat_interval=0.05")


def folder_with(tmp_path: Path, file: str, properties: str = "", *, name: str = "model.py") -> str:
    """A model folder with one of the files of ``model_files``."""
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(FILES / file, folder / name)
    (folder / "serving.properties").write_text(properties)
    return str(folder)


@pytest.fixture(scope="module")
def custom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A handler that does what its request says."""
    properties = "engine=Python\noption.my_var=value\n"
    folder = folder_with(tmp_path_factory.mktemp("custom"), "obedient.py", properties)
    with serve(folder, *FAST) as server:
        yield server


# -------------------------------------------------------------------------------------------------- custom handlers


def test_the_example_serves() -> None:
    with serve(str(ROOT / "examples" / "custom_handler")) as server:
        answer = server.post({"text": "the cat and the dog and the bird"})
        assert (answer.status_code, answer.json()) == (200, {"words": {"the": 3, "and": 2}})
        assert (answer.headers["x-n-words"], answer.headers["content-type"]) == ("2", "application/json")
        streamed = server.post({"text": "a b a", "stream": True})
        assert [json.loads(line) for line in streamed.text.splitlines()] == [{"outputs": ["a 2"]}, {"outputs": ["b 1"]}]
        wrong = server.post({"txt": "a"})
        assert (wrong.status_code, wrong.json()["error"]) == (400, "the body has no 'text'")


def test_it_is_called_once_with_nothing_before_it_is_ready_and_told_the_options(custom: ServerProcess) -> None:
    told = custom.post({"do": "loaded"}).json()
    assert told["calls"] == 1
    assert told["properties"]["my_var"] == told["properties"]["option.my_var"] == "value"
    assert told["properties"]["model_dir"].endswith("served")
    assert custom.health()["models"][0]["chosen_because"] == "model.py has the function handle"


def test_it_runs_in_the_worker(custom: ServerProcess) -> None:
    assert custom.post({"do": "pid"}).json() == custom.worker_pids()[0]


def test_code_content_and_properties_become_the_answer(custom: ServerProcess) -> None:
    answer = custom.post({"do": "teapot"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (418, b"\x00\xff", "image/x-tea")
    assert answer.headers["x-pot"] == "brown"


def test_nothing_returned_is_204(custom: ServerProcess) -> None:
    answer = custom.post({"do": "none"})
    assert (answer.status_code, answer.content) == (204, b"")


def test_headers_custom_attributes_query_and_body_arrive(custom: ServerProcess) -> None:
    headers = {"X-Mine": "1", "X-Amzn-SageMaker-Custom-Attributes": "a=b; c=d", "my_var": "forged"}
    seen = custom.post({"do": "see"}, path="/invocations?q=x&r=%C3%BC", headers=headers).json()
    assert seen["content"] == {"q": "x", "r": "ü", "data": '{"do": "see"}'}
    assert [seen["properties"][key] for key in ("x-mine", "a", "c", "my_var")] == ["1", "b", "d", "value"]


def test_a_form_arrives_field_by_field(custom: ServerProcess) -> None:
    with custom.client() as client:
        plain = client.post("/invocations", data={"do": "see", "n": "1"}).json()
        multipart = client.post("/invocations", data={"do": "see"}, files={"image": ("a.png", b"png")}).json()
        wrong = client.post("/invocations", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"})
    assert plain["content"] == {"do": "see", "n": "1"}
    assert multipart["content"] == {"do": "see", "image": "png"}
    assert (wrong.status_code, wrong.json()["error"]) == (400, "request.invalid")


def test_an_empty_body_reaches_it_as_an_empty_input(custom: ServerProcess) -> None:
    assert custom.post(b"").text == "nothing"


@pytest.mark.parametrize(
    ("task", "status", "code", "text"),
    [
        ("raise", 500, "script.raised", "handle of model.py raised KeyError: 'nowhere' (model.py:"),
        ("error", 424, "no ink", "prediction failure"),
        ("out of memory", 507, "engine.out-of-memory", "raised OutOfMemoryError: 3 GB"),
        ("refuse", 400, "mine.refused", "mine.refused: not this. Send another"),
        ("return a dict", 500, "script.wrong-output", "handle returned dict, not an Output"),
        ("bad header", 500, "script.wrong-output", "cannot be a header"),
    ],
)
def test_a_failure_has_the_right_status_and_the_next_request_is_answered(
    custom: ServerProcess, task: str, status: int, code: str, text: str
) -> None:
    answer = custom.post({"do": task})
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert text in answer.json()["message"]
    assert custom.post({"do": "pid"}).json() == custom.worker_pids()[0]


def test_a_body_that_is_no_json_is_the_clients_fault(custom: ServerProcess) -> None:
    answer = custom.post(b'{"do"')
    assert (answer.status_code, answer.json()["error"]) == (400, "request.malformed-json")


def test_a_header_cannot_choose_the_function(custom: ServerProcess) -> None:
    answer = custom.post({"do": "pid"}, headers={"handler": "other"})
    assert (answer.status_code, answer.json()["error"]) == (400, "request.function-override")


def test_a_stream_comes_as_it_is_made(custom: ServerProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = {"do": "stream", "gate": str(gate)}
    with custom.client() as client, client.stream("POST", "/invocations", json=body) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonlines")
        lines = answer.iter_lines()
        assert json.loads(next(lines)) == {"outputs": ["before"]}
        gate.touch()  # the second piece waits for this, so the first one was not held back
        assert [json.loads(line) for line in lines] == [{"outputs": ["after"]}]


def test_a_stream_that_fails_ends_with_the_error(custom: ServerProcess) -> None:
    lines = [json.loads(line) for line in custom.post({"do": "broken stream"}).text.splitlines()]
    assert lines[0] == {"outputs": ["before"]}
    assert (lines[-1]["code"], lines[-1]["error"]) == (500, "script.raised")


def test_a_stream_whose_client_leaves_ends_and_frees_the_copy(custom: ServerProcess, tmp_path: Path) -> None:
    body = {"do": "endless", "note": str(tmp_path / "closed")}
    with custom.client() as client, client.stream("POST", "/invocations", json=body) as answer:
        next(answer.iter_lines())
    eventually((tmp_path / "closed").exists)
    assert eventually(lambda: custom.workers()[0]["n_requests"] == 0)


def test_a_call_whose_client_left_keeps_its_copy_until_it_returns(custom: ServerProcess, tmp_path: Path) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    url = httpx.URL(custom.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=limit_s(30))
    connection.request("POST", "/invocations", json.dumps({"do": "wait", "gate": str(gate), "started": str(started)}))
    eventually(started.exists)
    connection.close()
    assert custom.workers()[0]["n_requests"] == 1
    gate.touch()
    assert custom.post({"do": "pid"}).json() == custom.worker_pids()[0]


def test_what_was_asked_to_be_done_at_the_end_is_done(custom: ServerProcess, tmp_path: Path) -> None:
    note = tmp_path / "done"
    assert custom.post({"do": "finalize", "note": str(note)}).text == "x"
    eventually(note.exists)


def test_a_call_that_runs_out_of_time_fails_and_its_process_is_replaced(tmp_path: Path) -> None:
    with serve(folder_with(tmp_path, "obedient.py", "option.predict_timeout=0.5\n"), *FAST) as server:
        [pid] = server.worker_pids()
        answer = server.post({"do": "sleep", "s": 3600})
        assert (answer.status_code, answer.json()["error"]) == (504, "request.deadline")
        assert "time of 0.5 s" in answer.json()["message"]
        server.wait_for_line("script.stuck: a call on worker model/0 went on after its time had run out")
        eventually(lambda: server.worker_pids() not in ([pid], []) and server.workers()[0]["state"] == "ready", 60)


def test_a_worker_that_dies_takes_its_request_along_and_no_other(custom: ServerProcess) -> None:
    answers = in_threads([lambda: custom.post({"do": "die"}), lambda: custom.post({"do": "pid"})])
    assert (answers[0].status_code, answers[0].json()["error"]) == (500, "engine.died")
    assert answers[1].status_code == 200


def test_one_call_at_a_time_unless_there_are_more_copies(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "obedient.py", "minWorkers=2\n")
    with serve(folder, *FAST) as server:
        assert eventually(lambda: [each["state"] for each in server.workers()] == ["ready", "ready"])
        # Each call ends when it has met another one: with one copy, or two calls in one, this would never end.
        meeting = tmp_path / "meeting"
        meeting.mkdir()
        body = {"do": "meet", "folder": str(meeting), "n": 2}
        answers = in_threads([lambda: server.post(body)] * 2)
        assert sorted(each.json() for each in answers) == sorted(server.worker_pids())


def test_an_asynchronous_function_answers_several_at_a_time(tmp_path: Path) -> None:
    with serve(folder_with(tmp_path, "asynchronous.py"), *FAST) as server:
        answers = in_threads([lambda: server.post({"wait_for": 3})] * 3)
        assert [each.json() for each in answers] == [{"met": 3}] * 3


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "obedient.py", "job_queue_size=1\n")
    gate = tmp_path / "gate"
    with serve(folder, *FAST) as server:
        body = {"do": "stream", "gate": str(gate)}
        with server.client() as client, client.stream("POST", "/invocations", json=body) as running:
            next(running.iter_lines())
            statuses = in_threads([lambda: _until_free(server, gate)] * 2)
        assert sorted(statuses) == [200, 429]


def _until_free(server: ServerProcess, gate: Path) -> int:
    """Send one more request; the first that is refused opens the gate for those that wait."""
    status = server.post({"do": "pid"}).status_code
    if status == 429:
        gate.touch()
    return status


def test_a_drain_lets_a_call_finish(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with serve(folder_with(tmp_path, "obedient.py"), *FAST) as server:
        body = {"do": "stream", "gate": str(gate)}
        with server.client() as client, client.stream("POST", "/invocations", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.terminate()
            server.wait_for_line("draining")
            gate.touch()
            assert [json.loads(line) for line in lines] == [{"outputs": ["after"]}]
        assert server.wait_for_end() == 0


def test_another_file_and_function_may_be_named_and_override_allowed(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "obedient.py", "option.entryPoint=serve.py\noption.handler=other\n", name="serve.py")
    with serve(folder, environ={"ALLOW_REQUEST_HANDLER_OVERRIDE": "true"}) as server:
        assert server.post({}).text == "other"
        assert server.post({"do": "pid"}, headers={"handler": "handle"}).json() == server.worker_pids()[0]
        missing = server.post({}, headers={"handler": "os"})
        assert (missing.status_code, missing.json()["error"]) == (400, "request.function-override")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("import_fails.py", "model.py cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"),
        ("load_fails.py", "handle of model.py raised RuntimeError: no weights here (model.py:"),
        ("load_answers_error.py", "handle answered 424 at load: "),
    ],
)
def test_a_handler_that_cannot_load_stops_the_start_and_says_why(tmp_path: Path, file: str, text: str) -> None:
    with serve(folder_with(tmp_path, file), is_ready=False) as server:
        assert server.wait_for_end() == 1
        assert f"cause:    {'script.import-failed' if 'import' in file else 'engine.load-failed'}: " in server.output
        assert text in server.output


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_file_with_neither_hooks_nor_handle_stops_the_start(tmp_path: Path) -> None:
    with serve(folder_with(tmp_path, "neither.py"), is_ready=False) as server:
        assert server.wait_for_end() == 2
        assert "[script.nothing] model.py has neither a hook (lmi_*) nor the function handle" in server.output


def test_secure_mode_stops_the_start(tmp_path: Path) -> None:
    environ = {
        "SAGEMAKER_SECURE_MODE": "true",
        "SAGEMAKER_SECURITY_CONTROLS": "DISALLOW_CUSTOM_INFERENCE_SCRIPTS",
    }
    with serve(folder_with(tmp_path, "obedient.py"), environ=environ, is_ready=False) as server:
        assert server.wait_for_end() == 2
        assert "served/model.py is a script, and SAGEMAKER_SECURITY_CONTROLS has" in server.output


# ------------------------------------------------------------------------------------------------------ extensions


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = folder_with(tmp_path_factory.mktemp("extended"), "hooks.py", "option.rolling_batch=echo\n")
    with serve(folder, *FAST) as server:
        yield server


def test_its_hooks_see_requests_and_text_in_the_server(extended: ServerProcess) -> None:
    answer = extended.post({"question": "abc?", "n": 8})
    assert answer.json() == {"answer": "ABC!ABC!"}


def test_what_its_hooks_leave_alone_is_lmis_own_schema(extended: ServerProcess) -> None:
    assert extended.post({"inputs": "ab", "parameters": {"max_new_tokens": 4}}).json() == {"answer": "ABAB"}
    lines = list(extended.stream("ab", max_new_tokens=3))
    assert [line["token"]["text"] for line in lines] == ["A", "B", "A"]
    wrong = extended.post({"inputs": "ab", "parameters": {"max_tokens": 4}})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "request.invalid")


def test_its_engine_hooks_run_in_the_worker(extended: ServerProcess) -> None:
    extended.generate("ab", max_new_tokens=2)
    pid = extended.wait_for_line(r"a batch of 1 in process (\d+)")[1]
    assert [int(pid)] == extended.worker_pids()


def test_it_may_load_an_engine_of_its_own(tmp_path: Path) -> None:
    with serve(folder_with(tmp_path, "own_engine.py", "option.rolling_batch=echo\n")) as server:
        assert server.generate("abc", max_new_tokens=4)["generated_text"] == "cbac"
        pid = server.wait_for_line(r"an engine of its own in process (\d+)")[1]
        assert [int(pid)] == server.worker_pids()


def test_it_may_add_routes(extended: ServerProcess) -> None:
    with extended.client() as client:
        assert client.get("/whoami").json() == {"models": ["model"], "pid": extended.process.pid}


def test_it_may_find_the_model_wrong(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "hooks.py", "option.rolling_batch=echo\noption.max_model_len=16\n")
    with serve(folder, is_ready=False) as server:
        assert server.wait_for_end() == 2
        assert "[mine.too-short] 16 tokens are too few. Take 32." in server.output


@pytest.mark.parametrize(
    ("file", "code", "text"),
    [
        ("misspelt_hook.py", 2, "there is no hook 'lmi_filter_txt' (model.py:8). Did you mean 'lmi_filter_text'?"),
        ("wrong_parameter.py", 2, "has no parameter 'txt'. Did you mean 'text'?"),
    ],
)
def test_a_hook_that_does_not_fit_stops_the_start(tmp_path: Path, file: str, code: int, text: str) -> None:
    with serve(folder_with(tmp_path, file, "option.rolling_batch=echo\n"), is_ready=False) as server:
        assert server.wait_for_end() == code
        assert text in server.output


def test_an_operators_extension_has_the_last_word(tmp_path: Path, extensions: Path) -> None:
    environ = {
        "PYTHONPATH": os.pathsep.join([str(extensions), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "LMI_EXTENSIONS": "redactor",
    }
    with serve(folder_with(tmp_path, "spells.py", "option.rolling_batch=echo\n"), environ=environ) as server:
        # The model's own file writes the word that the operator's extension cuts out.
        assert server.generate("s-e-c-r-e-t!", max_new_tokens=12)["generated_text"] == "[cut]!"


def test_extensions_that_a_handler_passes_by_are_named(tmp_path: Path, extensions: Path) -> None:
    path = os.pathsep.join([str(extensions), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environ = {"PYTHONPATH": path, "LMI_EXTENSIONS": "redactor"}
    with serve(folder_with(tmp_path, "obedient.py"), environ=environ) as server:
        server.wait_for_line(r"\[plugin.not-heard\] an extension has lmi_filter_text, which is not called for a custom")


# ------------------------------------------------------------------------------------------------------ formatters


@pytest.mark.parametrize(
    ("file", "properties", "body", "lines"),
    [
        ("formats_tokens.py", "", "<a><b><a.length>", ["<a>", "<b>", "<a.length>"]),
        ("formats_tokens.py", "option.output_formatter=legacy\n", "a+b+aba:aba", ["a+", "b+", "aba:aba"]),
        (
            "formats_answers.py",
            "",
            '{"generated_text":"aba","seen":true}',
            ["seen", "seen", "seen"],
        ),
    ],
)
def test_a_formatter_writes_the_answers_of_a_backend(
    tmp_path: Path, file: str, properties: str, body: str, lines: list[str]
) -> None:
    folder = folder_with(tmp_path, file, f"option.rolling_batch=echo\n{properties}")
    with serve(folder) as server:
        request = {"inputs": "ab", "parameters": {"max_new_tokens": 3}}
        whole = server.post(request)
        assert (whole.status_code, whole.text, whole.headers["content-type"]) == (200, body, "application/json")
        streamed = server.post({**request, "stream": True})
        assert streamed.headers["content-type"] == "application/jsonlines"
        if file == "formats_answers.py":
            got = [json.loads(line) for line in streamed.text.splitlines()]
            assert [list(line)[-1] for line in got] == lines
            assert got[-1]["generated_text"] == "aba"
        else:
            assert streamed.text == "".join(lines)


def test_a_formatter_that_fails_fails_its_request_alone(tmp_path: Path) -> None:
    with serve(folder_with(tmp_path, "formats_tokens.py", "option.rolling_batch=echo\n")) as server:
        answer = server.post({"inputs": "!", "parameters": {"max_new_tokens": 1}})
        assert (answer.status_code, answer.json()["error"]) == (500, "script.raised")
        assert "write of model.py raised ValueError: no exclamations" in answer.json()["message"]
        assert server.post({"inputs": "a", "parameters": {"max_new_tokens": 1}}).text == "<a.length>"
