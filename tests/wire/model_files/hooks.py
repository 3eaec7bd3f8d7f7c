# SPDX-License-Identifier: Apache-2.0
"""Every hook that a model may bring."""

import os

from lmi.api import Problem, hookimpl


@hookimpl
def lmi_validate_artifacts(config):
    if config.max_model_len < 32:
        return [Problem(code="mine.too-short", message=f"{config.max_model_len} tokens are too few", hint="Take 32")]
    return []


@hookimpl
def lmi_parse_request(body):
    if isinstance(body, dict) and "question" in body:
        return {"inputs": body["question"], "parameters": {"max_new_tokens": body["n"]}}
    return None


@hookimpl
def lmi_filter_request(request):
    request.prompt = request.prompt.replace("?", "!")


@hookimpl
def lmi_filter_text(text):
    return text.upper()


@hookimpl
def lmi_format_response(result):
    return {"answer": result.text}


@hookimpl
def lmi_register_routes(app, context):
    @app.get("/whoami")
    def whoami():
        return {"models": list(context.models), "pid": os.getpid()}


@hookimpl(wrapper=True)
def lmi_generate_batch(requests):
    print(f"a batch of {len(requests)} in process {os.getpid()}", flush=True)
    return (yield)
