# SPDX-License-Identifier: Apache-2.0
"""Print an endpoint's text while it is made: ``python examples/sagemaker/endpoint/stream.py my-endpoint "Hello"``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from typing import Any

import boto3


def lines(events: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """The lines of a stream; its parts may be cut anywhere, also within a line or a character."""
    rest = b""
    for event in events:
        rest += event["PayloadPart"]["Bytes"]
        *whole, rest = rest.split(b"\n")
        yield from filter(None, whole)
    if rest:
        yield rest


def main() -> None:
    parser = argparse.ArgumentParser(description="Print an endpoint's text while it is made.")
    parser.add_argument("name")
    parser.add_argument("prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    given = parser.parse_args()

    body = {"inputs": given.prompt, "parameters": {"max_new_tokens": given.max_new_tokens}, "stream": True}
    answer = boto3.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=given.name, ContentType="application/json", Body=json.dumps(body)
    )
    for line in lines(answer["Body"]):
        told = json.loads(line)
        if "token" not in told:  # an error ends the stream with a line of its own
            raise SystemExit(f"\n{told}")
        print(told["token"]["text"], end="", flush=True)
    print()


if __name__ == "__main__":
    main()
