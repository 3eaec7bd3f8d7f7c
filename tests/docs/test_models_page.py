# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/models.md, with the demo model where the page has a folder of the platform."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import Page
from tests.servers import eventually, serve


@pytest.mark.model
def test_the_commands_of_multi_model_endpoints_do_what_the_page_says(demo_model: Path):
    [script] = Page("models.md").listings("Multi-model endpoints of SageMaker", "sh")
    first, *calls = script.splitlines()
    assert first == "SAGEMAKER_MULTI_MODEL=true lmi serve &"
    with serve(environ={"SAGEMAKER_MULTI_MODEL": "true"}, is_ready=False) as server:
        eventually(lambda: server.url, 30)
        answers = []
        for call in calls:
            command = call.replace("localhost:8080", server.url).replace("/path/to/model", str(demo_model))
            answers.append(subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout)
    ping, loaded, text, unloaded = answers
    assert (ping, loaded) == ("{}", '{"status":"Model \\"demo\\" registered."}')
    assert "Paris" in text
    assert unloaded == '{"status":"Model \\"demo\\" unregistered"}'
