# SPDX-License-Identifier: Apache-2.0
"""KServe's own server around a model class; a generator as answer is streamed. Usage: kserve_app.py PORT."""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from fake_engine import generate
from kserve import Model, ModelServer


class Fake(Model):
    def __init__(self) -> None:
        super().__init__("fake")
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        n_tokens = payload["parameters"]["max_new_tokens"]
        if payload.get("stream"):
            return json_lines(n_tokens)
        return {"predictions": ["".join([text async for _, text in generate(n_tokens)])]}


async def json_lines(n_tokens: int) -> AsyncIterator[str]:
    async for token_id, text in generate(n_tokens):
        yield json.dumps({"token": {"id": token_id, "text": text, "log_prob": 0.0}}) + "\n"


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, access_log_format=None).start([Fake()])
