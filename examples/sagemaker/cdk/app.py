# SPDX-License-Identifier: Apache-2.0
"""A model, its configuration and its endpoint, for CDK; docs/deploy/4-endpoint.md has the lines that use it."""

from __future__ import annotations

from aws_cdk import App, CfnOutput, Stack
from aws_cdk.aws_sagemaker import CfnEndpoint, CfnEndpointConfig, CfnModel
from constructs import Construct

STARTUP_S = 900
"""How long the container may take until /ping is 200; at least option.model_loading_timeout, at most 3600."""


class LmiEndpoint(Construct):
    """A large language model behind a SageMaker endpoint, served by LMI.

    Args:
        scope, name: as every construct has them.
        image: URI of the image in ECR.
        role_arn: the role that the container gets; it reads the model's bucket and the image's repository.
        model_prefix: ``s3://.../`` with the model's files and its serving.properties.
        environment: of the container, as ``OPTION_ROLLING_BATCH``.
        instance_type: of the one instance.
    """

    def __init__(
        self,
        scope: Construct,
        name: str,
        *,
        image: str,
        role_arn: str,
        model_prefix: str,
        environment: dict[str, str],
        instance_type: str,
    ) -> None:
        super().__init__(scope, name)
        source = CfnModel.S3DataSourceProperty(s3_uri=model_prefix, s3_data_type="S3Prefix", compression_type="None")
        model = CfnModel(
            self,
            "Model",
            execution_role_arn=role_arn,
            primary_container=CfnModel.ContainerDefinitionProperty(
                image=image,
                model_data_source=CfnModel.ModelDataSourceProperty(s3_data_source=source),
                environment=environment,
            ),
        )
        variant = CfnEndpointConfig.ProductionVariantProperty(
            variant_name="AllTraffic",
            model_name=model.attr_model_name,
            instance_type=instance_type,
            initial_instance_count=1,
            initial_variant_weight=1,
            model_data_download_timeout_in_seconds=STARTUP_S,
            container_startup_health_check_timeout_in_seconds=STARTUP_S,
        )
        config = CfnEndpointConfig(self, "EndpointConfig", production_variants=[variant])
        endpoint = CfnEndpoint(self, "Endpoint", endpoint_config_name=config.attr_endpoint_config_name)
        CfnOutput(self, "EndpointName", value=endpoint.attr_endpoint_name)


def main() -> None:
    app = App()
    given = {name: app.node.try_get_context(name) for name in ("image", "role", "model")}
    if missing := [name for name, value in given.items() if not value]:
        raise SystemExit(f"say what is deployed: {' '.join(f'-c {name}=...' for name in missing)}")
    LmiEndpoint(
        Stack(app, app.node.try_get_context("stack") or "my-endpoint"),
        "Lmi",
        image=given["image"],
        role_arn=given["role"],
        model_prefix=given["model"],
        environment={"OPTION_ROLLING_BATCH": app.node.try_get_context("rolling-batch") or "auto"},
        instance_type=app.node.try_get_context("instance-type") or "ml.g5.2xlarge",
    )
    app.synth()


if __name__ == "__main__":
    main()
