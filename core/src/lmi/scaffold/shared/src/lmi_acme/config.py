# SPDX-License-Identifier: Apache-2.0
"""Options of the acme backend. The core reads and checks them; nothing here ever sees text."""

from lmi.api import BackendConfig, option


class AcmeConfig(BackendConfig):
    """Options of the acme backend, beside those that every backend has."""

    max_model_len: int = option(4096, description="Longest prompt plus output.", unit="tokens", ge=2)
