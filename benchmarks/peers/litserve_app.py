# SPDX-License-Identifier: Apache-2.0
"""LitServe: its engine runs in a worker process, and a server streams or does not. Usage: litserve_app.py MODE PORT.

What encodes and decodes has no annotations: LitServe would make FastAPI validate by them.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import litserve
from fake_engine import WORDS


class Whole(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request):
        return int(request["parameters"]["max_new_tokens"])

    def predict(self, n_tokens: int) -> Any:
        return "".join(WORDS[number % len(WORDS)] for number in range(n_tokens))

    def encode_response(self, output):
        return {"generated_text": output}


class Streamed(Whole):
    def predict(self, n_tokens: int) -> Iterator[tuple[int, str]]:
        for number in range(n_tokens):
            yield number, WORDS[number % len(WORDS)]

    def encode_response(self, output):
        for token_id, text in output:
            yield json.dumps({"token": {"id": token_id, "text": text, "log_prob": 0.0}}) + "\n"


if __name__ == "__main__":
    is_stream = sys.argv[1] == "stream"
    api = (Streamed if is_stream else Whole)(api_path="/invocations", stream=is_stream)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), num_api_servers=1, log_level="error", generate_client_file=False)
