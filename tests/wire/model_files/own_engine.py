# SPDX-License-Identifier: Apache-2.0
"""An engine in place of the backend's: repeats the prompt backwards."""

import os

import msgspec

from lmi.api import hookimpl
from lmi_echo.engine import EchoEngine


class BackwardsEngine(EchoEngine):
    def generate(self, request):
        return super().generate(msgspec.structs.replace(request, prompt_ids=request.prompt_ids[::-1]))


@hookimpl
def lmi_load_engine(config):
    print(f"an engine of its own in process {os.getpid()}", flush=True)
    return BackwardsEngine(config)
