# SPDX-License-Identifier: Apache-2.0
"""Ask an endpoint many times and tell how long it takes: ``latency.py my-endpoint --n-requests 16 --at-once 4``."""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles
from typing import Any

import boto3
from botocore.config import Config


def seconds_of(runtime: Any, name: str, body: dict[str, Any]) -> tuple[float, float]:
    """Seconds until the first part of a streamed answer, and until its end."""
    start_s = time.monotonic()
    answer = runtime.invoke_endpoint_with_response_stream(
        EndpointName=name, ContentType="application/json", Body=json.dumps(body)
    )
    first_s = 0.0
    for _ in answer["Body"]:
        first_s = first_s or time.monotonic() - start_s
    return first_s, time.monotonic() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask an endpoint many times, and tell how long it takes.")
    parser.add_argument("name")
    parser.add_argument("--n-requests", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    given = parser.parse_args()

    config = Config(max_pool_connections=given.at_once, retries={"total_max_attempts": 1})
    runtime = boto3.client("sagemaker-runtime", config=config)
    parameters = {"max_new_tokens": given.max_new_tokens}
    bodies = [
        {"inputs": f"Story {number}: once upon a time", "parameters": parameters, "stream": True}
        for number in range(given.n_requests)
    ]
    start_s = time.monotonic()
    with ThreadPoolExecutor(given.at_once) as threads:
        measured = list(threads.map(lambda body: seconds_of(runtime, given.name, body), bodies))
    took_s = time.monotonic() - start_s
    print(f"{given.n_requests / took_s:.1f} requests/s")
    for what, values in zip(("first part", "whole answer"), zip(*measured, strict=True), strict=True):
        p50, p90 = (quantiles(values, n=10, method="inclusive")[place] * 1000 for place in (4, 8))
        print(f"{what}: p50 {p50:.0f} ms, p90 {p90:.0f} ms, longest {max(values) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
