# SPDX-License-Identifier: Apache-2.0
"""Ask an endpoint and print the text: ``python examples/sagemaker/endpoint/invoke.py my-endpoint "Hello"``."""

from __future__ import annotations

import argparse
import json

import boto3


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask an endpoint and print the text.")
    parser.add_argument("name")
    parser.add_argument("prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--adapter", help="the LoRA adapter that answers")
    parser.add_argument("--component", help="the inference component that answers")
    parser.add_argument("--model", help="the model of a multi-model endpoint: NAME.tar.gz")
    parser.add_argument("--session", help="the id of a session; NEW_SESSION opens one, whose id is printed first")
    given = parser.parse_args()

    body = {"inputs": given.prompt, "parameters": {"max_new_tokens": given.max_new_tokens}}
    if given.adapter is not None:
        body["adapters"] = given.adapter
    members = {
        "InferenceComponentName": given.component,
        "TargetModel": given.model,
        "SessionId": given.session,
    }
    answer = boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=given.name,
        ContentType="application/json",
        Body=json.dumps(body),
        **{key: value for key, value in members.items() if value is not None},
    )
    if "NewSessionId" in answer:  # "ID; Expires=TIME"
        print(answer["NewSessionId"].partition(";")[0])
    print(json.loads(answer["Body"].read())["generated_text"])


if __name__ == "__main__":
    main()
