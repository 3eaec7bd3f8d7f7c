# SPDX-License-Identifier: Apache-2.0
"""Remove an endpoint, its configuration and its model: ``python examples/sagemaker/endpoint/delete.py my-endpoint``."""

from __future__ import annotations

import argparse

import boto3
from botocore.exceptions import ClientError


def main() -> None:
    parser = argparse.ArgumentParser(description="Remove an endpoint, its configuration and its model.")
    parser.add_argument("name")
    name = parser.parse_args().name

    client = boto3.client("sagemaker")
    for what, remove in (
        ("endpoint", lambda: client.delete_endpoint(EndpointName=name)),
        ("configuration", lambda: client.delete_endpoint_config(EndpointConfigName=name)),
        ("model", lambda: client.delete_model(ModelName=name)),
    ):
        try:
            remove()
            print(f"{what} {name} is removed")
        except ClientError as error:  # one that is gone already keeps nobody from removing the rest
            print(f"{what} {name}: {error.response['Error']['Message']}")


if __name__ == "__main__":
    main()
