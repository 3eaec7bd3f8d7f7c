# SPDX-License-Identifier: Apache-2.0
"""The echo backend as a user meets it: chosen by name, without a model, with its options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers import serve


def test_echo_needs_no_model_and_says_how_to_talk_to_it() -> None:
    with serve("-o", "rolling_batch=echo") as server:
        curl = server.wait_for_line(r"try: curl -s (http://\S+)/invocations .* -d '(.*)'")
        assert curl[1] == server.url
        answer = server.post(json.loads(curl[2])).json()["generated_text"]
        assert answer.startswith("The capital")


def test_echo_takes_its_options_from_a_folder_with_nothing_but_a_configuration(tmp_path: Path) -> None:
    text = "option.rolling_batch=echo\noption.max_model_len=12\n"
    (tmp_path / "serving.properties").write_text(text)
    with serve(str(tmp_path)) as server:
        assert server.generate("abcd", max_new_tokens=8) == {"generated_text": "abcdabcd"}
        response = server.post({"inputs": "abcd", "parameters": {"max_new_tokens": 9}})
    assert (
        "prompt 4 tokens + max_new_tokens 9 = 13; this model's maximum context length is 12 "
        in response.json()["message"]
    )


def test_echo_takes_its_options_from_the_environment() -> None:
    environ = {"OPTION_ROLLING_BATCH": "echo", "OPTION_MAX_MODEL_LEN": "12"}
    with serve(environ=environ) as server:
        assert server.post({"inputs": "a" * 12}).json()["error"] == "request.too-long"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("max_model_len=1", ("max_model_len", "2")),
        ("step_delay_ms=-1", ("step_delay_ms", "0")),
        ("max_rolling_batch_size=0", ("max_rolling_batch_size", "1")),
        ("step_delay=5", ("step_delay", "Did you mean 'option.step_delay_ms'?")),
    ],
)
def test_a_wrong_option_ends_the_start_and_names_key_and_limit(option: str, words: tuple[str, ...]) -> None:
    with serve("-o", "rolling_batch=echo", "-o", option, is_ready=False) as server:
        assert server.wait_for_end() == 2
    digest = server.output[server.output.index("LMI could not start") :]
    assert all(word in digest for word in words)
    assert "command line" in digest
