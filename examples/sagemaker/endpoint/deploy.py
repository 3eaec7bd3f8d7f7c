# SPDX-License-Identifier: Apache-2.0
"""Make an endpoint with boto3: a model, its configuration, and the endpoint itself; wait until it is in service.

    python examples/sagemaker/endpoint/deploy.py my-endpoint IMAGE ROLE --model s3://my-bucket/model/ \
        --env OPTION_ROLLING_BATCH=vllm
"""

from __future__ import annotations

import argparse
from typing import Any

import boto3

STARTUP_S = 900
"""How long the container may take until /ping is 200; at least option.model_loading_timeout, at most 3600."""


def container(image: str, model: str | None, environ: dict[str, str]) -> dict[str, Any]:
    """The container of a model: its files are in a prefix of S3, in an archive there, or nowhere."""
    described: dict[str, Any] = {"Image": image, "Environment": environ}
    if model is not None:
        is_archive = model.endswith(".tar.gz")
        described["ModelDataSource"] = {
            "S3DataSource": {
                "S3Uri": model,
                "S3DataType": "S3Object" if is_archive else "S3Prefix",
                "CompressionType": "Gzip" if is_archive else "None",
            }
        }
    return described


def main() -> None:
    parser = argparse.ArgumentParser(description="Make an endpoint, and wait until it is in service.")
    parser.add_argument("name")
    parser.add_argument("image")
    parser.add_argument("role", help="ARN of the role that the container gets")
    parser.add_argument("--model", help="s3://.../, or s3://.../model.tar.gz; without one, --env says what is served")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--instance-type", default="ml.g5.2xlarge")
    parser.add_argument("--async-output", metavar="s3://...", help="make it an asynchronous endpoint")
    given = parser.parse_args()

    environ = dict(pair.split("=", 1) for pair in given.env)
    client = boto3.client("sagemaker")
    client.create_model(
        ModelName=given.name,
        ExecutionRoleArn=given.role,
        PrimaryContainer=container(given.image, given.model, environ),
    )
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": given.name,
        "InstanceType": given.instance_type,
        "InitialInstanceCount": 1,
        "ModelDataDownloadTimeoutInSeconds": STARTUP_S,
        "ContainerStartupHealthCheckTimeoutInSeconds": STARTUP_S,
    }
    more = {}
    if given.async_output is not None:
        more["AsyncInferenceConfig"] = {"OutputConfig": {"S3OutputPath": given.async_output}}
    client.create_endpoint_config(EndpointConfigName=given.name, ProductionVariants=[variant], **more)
    client.create_endpoint(EndpointName=given.name, EndpointConfigName=given.name)
    client.get_waiter("endpoint_in_service").wait(EndpointName=given.name)
    print(f"{given.name} is in service")


if __name__ == "__main__":
    main()
