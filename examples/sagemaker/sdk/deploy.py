# SPDX-License-Identifier: Apache-2.0
"""Deploy a model with the SageMaker SDK, ask it something, and remove everything again.

    pip install -r examples/sagemaker/sdk/requirements.txt
    python examples/sagemaker/sdk/deploy.py IMAGE model.tar.gz

IMAGE is the URI of one of the images of this folder in your ECR repository. The archive holds serving.properties, and
the model's files unless option.model_id says where those are.
"""

from __future__ import annotations

import argparse

from sagemaker.deserializers import JSONDeserializer
from sagemaker.serializers import JSONSerializer

import sagemaker


def main() -> None:
    parser = argparse.ArgumentParser(description="Deploy a model, ask it something, and remove everything again.")
    parser.add_argument("image")
    parser.add_argument("archive")
    parser.add_argument("--instance-type", default="ml.g5.2xlarge")
    parser.add_argument("--endpoint-name", help="a new one if left out")
    parser.add_argument("--prompt", default="The capital of France is")
    given = parser.parse_args()

    role = sagemaker.get_execution_role()
    session = sagemaker.session.Session()
    model_data = session.upload_data(given.archive, session.default_bucket(), "lmi")

    model = sagemaker.Model(image_uri=given.image, model_data=model_data, role=role, sagemaker_session=session)
    endpoint_name = given.endpoint_name or sagemaker.utils.name_from_base("lmi")
    model.deploy(
        initial_instance_count=1,
        instance_type=given.instance_type,
        endpoint_name=endpoint_name,
        container_startup_health_check_timeout=900,
    )
    predictor = sagemaker.Predictor(
        endpoint_name=endpoint_name,
        sagemaker_session=session,
        serializer=JSONSerializer(),
        deserializer=JSONDeserializer(),
    )
    try:
        print(predictor.predict({"inputs": given.prompt, "parameters": {"max_new_tokens": 16}}))
    finally:
        session.delete_endpoint(endpoint_name)
        session.delete_endpoint_config(endpoint_name)
        model.delete_model()


if __name__ == "__main__":
    main()
