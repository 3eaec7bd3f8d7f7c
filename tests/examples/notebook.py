# SPDX-License-Identifier: Apache-2.0
"""Run a script as a notebook on SageMaker would, with moto for AWS: ``notebook.py RUNTIME_URL SCRIPT ARGUMENT ...``.

It has the credentials of a role; the calls of the runtime go to the URL. The last line tells what was there while the
endpoint was, and what is left, in JSON. To be run under a Python that has moto, and what the script imports.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from typing import Any

import boto3
from moto import mock_aws


def main() -> None:
    url, script, *arguments = sys.argv[1:]
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    os.environ |= {"AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": url}
    with mock_aws(config={"core": {"mock_credentials": False, "passthrough": {"urls": [re.escape(url)]}}}):
        _take_role()
        made: dict[str, Any] = {}
        _watch(made)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        print(json.dumps({"made": made, "left": _left()}))


def _take_role() -> None:
    """Be somebody who has assumed a role, as a notebook has."""
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = boto3.client("iam").create_role(RoleName="notebook", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    taken = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="here")["Credentials"]
    names = {"AccessKeyId": "AWS_ACCESS_KEY_ID", "SecretAccessKey": "AWS_SECRET_ACCESS_KEY"}
    os.environ |= {names[key]: taken[key] for key in names} | {"AWS_SESSION_TOKEN": taken["SessionToken"]}
    boto3.DEFAULT_SESSION = None  # it keeps the credentials of before


def _watch(made: dict[str, Any]) -> None:
    """Keep what is asked of the control plane in the calls that make something."""
    from botocore.client import BaseClient

    call = BaseClient._make_api_call

    def watched(self: Any, operation: str, members: dict[str, Any]) -> Any:
        if operation.startswith("Create"):
            made[operation] = json.loads(json.dumps(members, default=str))
        return call(self, operation, members)

    BaseClient._make_api_call = watched


def _left() -> dict[str, list[str]]:
    client, s3 = boto3.client("sagemaker"), boto3.client("s3")
    buckets = [each["Name"] for each in s3.list_buckets()["Buckets"]]
    return {
        "endpoints": [each["EndpointName"] for each in client.list_endpoints()["Endpoints"]],
        "configs": [each["EndpointConfigName"] for each in client.list_endpoint_configs()["EndpointConfigs"]],
        "models": [each["ModelName"] for each in client.list_models()["Models"]],
        "objects": [f"s3://{name}/{each['Key']}" for name in buckets
                    for each in s3.list_objects_v2(Bucket=name).get("Contents", [])],
    }  # fmt: skip


if __name__ == "__main__":
    main()
