# SPDX-License-Identifier: Apache-2.0
"""The documents that rules come from."""

from __future__ import annotations

from lmi.conformance.rules import Basis, Source

_GUIDE = "https://docs.aws.amazon.com/sagemaker/latest/dg"
_API = "https://docs.aws.amazon.com/sagemaker/latest/APIReference"


def _documented(text: str, url: str) -> Source:
    return Source(Basis.DOCUMENTED, text, url)


HOSTING = _documented("Custom Inference Code with Hosting Services", f"{_GUIDE}/your-algorithms-inference-code.html")
BATCH = _documented("Custom Inference Code with Batch Transform", f"{_GUIDE}/your-algorithms-batch-code.html")
BATCH_JOB = _documented("CreateTransformJob, API reference", f"{_API}/API_CreateTransformJob.html")
MULTI_MODEL = _documented("Custom Containers Contract for Multi-Model Endpoints", f"{_GUIDE}/mms-container-apis.html")
SESSIONS = _documented("Stateful sessions with SageMaker models", f"{_GUIDE}/stateful-sessions.html")
FAQ = _documented("Hosting FAQs", f"{_GUIDE}/hosting-faqs.html")
INVOKE = _documented("InvokeEndpoint, API reference", f"{_API}/API_runtime_InvokeEndpoint.html")
OTHER_PORT = _documented("labels and SAGEMAKER_BIND_TO_PORT of inference pipelines",
                         f"{_GUIDE}/inference-pipeline-real-time.html")  # fmt: skip


def convention(text: str) -> Source:
    """What servers for the platform have in common, or another standard says."""
    return Source(Basis.CONVENTION, text)


def ours(text: str) -> Source:
    """What experience says; the text is the reason."""
    return Source(Basis.OURS, text)
