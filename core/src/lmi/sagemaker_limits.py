# SPDX-License-Identifier: Apache-2.0
"""The numbers that SageMaker gives a container, each with the page that says so.

Pages are those of the Amazon SageMaker AI Developer Guide, unless another source is named.
"""

from __future__ import annotations

CONNECT_S = 0.25
"""Until a connection is accepted. Source: Custom Inference Code with Hosting Services."""

PING_S = 2.0
"""For one answer of ``/ping``. Source: Custom Inference Code with Hosting Services."""

INVOCATION_S = 60.0
"""For one answer of ``/invocations``. Source: Custom Inference Code with Hosting Services."""

STREAM_S = 480.0
"""For one streamed answer. Source: Hosting FAQs."""

STOP_S = 30.0
"""From SIGTERM to SIGKILL. Source: Custom Inference Code with Hosting Services."""

STARTUP_S = 480.0
"""Until ``/ping`` is 200, where the endpoint's owner says nothing. Source: Custom Inference Code with Hosting Services;
older copies say four minutes."""

STARTUP_RANGE_S = (60, 3600)
"""What the owner may say, on the variant or the inference component. Source: botocore's model of ``sagemaker``."""

BODY_BYTES = 25 << 20
"""Longest body of a request, and of its answer. Source: Hosting FAQs; botocore's model still says 6 MiB."""

ERROR_TEXT_CHARS = 2048
"""Characters of a container's error that a caller gets. Source: measured with botocore, from the endpoint's errors."""

CUSTOM_ATTRIBUTES_CHARS = 1024
"""Longest ``X-Amzn-SageMaker-Custom-Attributes``, in ASCII. Source: InvokeEndpoint, API reference."""

INFERENCE_ID_CHARS = 64
"""Longest ``X-Amzn-SageMaker-Inference-Id``. Source: InvokeEndpoint, API reference."""

NEW_SESSION_PATTERN = r"[a-zA-Z0-9](-*[a-zA-Z0-9])*;\sExpires=[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
"""``X-Amzn-SageMaker-New-Session-Id``, as a whole. Source: botocore's model of ``sagemaker-runtime``."""

NEW_SESSION_CHARS = 256
"""Longest one of those. Source: as above."""

BATCH_PAYLOAD_PRODUCT_MB = 100
"""Most of ``MaxConcurrentTransforms`` times ``MaxPayloadInMB``. Source: CreateTransformJob, API reference."""

BATCH_PAYLOAD_MB = 6
"""``MaxPayloadInMB`` where neither the job's owner nor the container says anything. Source: as above."""

DEFAULT_PORT = 8080
"""Port of a container that is told no other. Source: Custom Inference Code with Hosting Services."""

SESSION_PATTERN = r"[a-zA-Z0-9](-*[a-zA-Z0-9])*"
"""Id of a session, and ``X-Amzn-SageMaker-Closed-Session-Id``. Source: as above."""

ASYNC_INPUT_BYTES = 1 << 30
"""Largest input of an asynchronous request, and what its answer is held to here. Source: Hosting FAQs."""

ASYNC_BODY_BYTES = 128_000
"""Largest input that such a request carries itself. Source: botocore's model of ``sagemaker-runtime``."""

ASYNC_INVOCATION_S, ASYNC_INVOCATION_RANGE_S = 900.0, (1, 3600)
"""For one asynchronous answer, where the request says nothing, and what it may say. Source: as above."""

ASYNC_AGE_S, ASYNC_AGE_RANGE_S = 21_600.0, (60, 21_600)
"""How long such a request may wait for its turn, where it says nothing, and what it may say. Source: as above."""

MODEL_WAIT_S, MODEL_LOAD_S = 60.0, 360.0
"""How long a request waits for its model of a multi-model endpoint, and how long loading goes on. Source: Build Your
Own Container for Multi-Model Endpoints."""

N_ENVIRONMENT_PAIRS, ENVIRONMENT_TEXT_BYTES, ENVIRONMENT_BYTES = 100, 1024, 32 << 10
"""A container's environment: pairs, bytes of a name or a value, bytes of all. Source: botocore's model of
``sagemaker``."""
