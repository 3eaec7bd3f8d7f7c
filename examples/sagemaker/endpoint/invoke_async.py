# SPDX-License-Identifier: Apache-2.0
"""Ask an asynchronous endpoint: the request is put into S3, and the answer is waited for there.

python examples/sagemaker/endpoint/invoke_async.py my-endpoint s3://my-bucket/requests/1.json "Hello"
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any
from urllib.parse import urlsplit

import boto3


def wait_for(s3: Any, answer_at: str, failure_at: str, seconds: float) -> str:
    """What is at one of two places as soon as it is there.

    Raises:
        RuntimeError: it is the failure.
        TimeoutError: there is nothing in time.
    """
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        for place in (answer_at, failure_at):
            bucket, key = urlsplit(place).netloc, urlsplit(place).path.lstrip("/")
            if any(each["Key"] == key for each in s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])):
                content: str = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
                if place == failure_at:
                    raise RuntimeError(content)
                return content
        time.sleep(1)
    raise TimeoutError(f"there is no answer at {answer_at} after {seconds:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask an asynchronous endpoint, and wait for the answer.")
    parser.add_argument("name")
    parser.add_argument("input", help="where the request is put: s3://BUCKET/KEY")
    parser.add_argument("prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--wait-s", type=float, default=600)
    given = parser.parse_args()

    s3 = boto3.client("s3")
    place = urlsplit(given.input)
    body = {"inputs": given.prompt, "parameters": {"max_new_tokens": given.max_new_tokens}}
    s3.put_object(Bucket=place.netloc, Key=place.path.lstrip("/"), Body=json.dumps(body))
    told = boto3.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=given.name, ContentType="application/json", InputLocation=given.input
    )
    answer = wait_for(s3, told["OutputLocation"], told.get("FailureLocation", ""), given.wait_s)
    print(json.loads(answer)["generated_text"])


if __name__ == "__main__":
    main()
