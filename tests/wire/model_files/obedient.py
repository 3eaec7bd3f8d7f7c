# SPDX-License-Identifier: Apache-2.0
"""A handler that does what its request says."""

import os
import time
from pathlib import Path

from djl_python import Input, Output
from lmi.api import RefusedError

calls = []


class OutOfMemoryError(RuntimeError):
    """Named as libraries name theirs."""


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.005)


def stream(gate):
    yield ["before"]
    wait_for(gate)
    yield ["after"]


def broken_stream():
    yield ["before"]
    raise KeyError("nowhere")


def endless(note):
    try:
        while True:
            time.sleep(0.005)
            yield ["more"]
    finally:
        Path(note).touch()


def meet(folder, n):
    (Path(folder) / str(os.getpid())).touch()
    while len(list(Path(folder).iterdir())) < n:
        time.sleep(0.005)
    return os.getpid()


def see(inputs):
    content = inputs.get_content()
    shown = {content.key_at(i): bytes(content.value_at(i)).decode() for i in range(content.size())}
    return {"content": shown, "properties": inputs.get_properties()}


def obey(task, inputs, request):  # noqa: PLR0911, PLR0912
    if task == "pid":
        return Output().add(os.getpid())
    if task == "loaded":
        return Output().add({"calls": sum(call.is_empty() for call in calls[:1]), "properties": calls[0].properties})
    if task == "see":
        return Output().add(see(inputs))
    if task == "teapot":
        return Output(418).add(b"\x00\xff").add_property("Content-Type", "image/x-tea").add_property("X-Pot", "brown")
    if task == "none":
        return None
    if task == "error":
        return Output().error("no ink")
    if task == "out of memory":
        raise OutOfMemoryError("3 GB")
    if task == "refuse":
        raise RefusedError("mine.refused", "not this", "Send another")
    if task == "return a dict":
        return {}
    if task == "bad header":
        return Output().add("x").add_property("x", "a\r\nset-cookie: b")
    if task == "stream":
        return Output().add_stream_content(stream(request["gate"]))
    if task == "broken stream":
        return Output().add_stream_content(broken_stream())
    if task == "endless":
        return Output().add_stream_content(endless(request["note"]))
    if task == "finalize":
        return Output().add("x").finalize(Path(request["note"]).touch)
    if task == "wait":
        Path(request["started"]).touch()
        wait_for(request["gate"])
        return Output().add("waited")
    if task == "meet":
        return Output().add(meet(request["folder"], request["n"]))
    if task == "sleep":
        time.sleep(request["s"])
    if task == "die":
        os._exit(3)
    raise KeyError("nowhere")


def handle(inputs: Input):
    calls.append(inputs)
    if len(calls) == 1 and inputs.is_empty():
        return None
    if inputs.is_empty():
        return Output().add("nothing")
    if inputs.contains_key("do"):
        return obey(inputs.get_as_string("do"), inputs, {})
    request = inputs.get_as_json("data")
    return obey(request["do"], inputs, request)


def other(inputs: Input):
    return None if inputs.is_empty() else Output().add("other")
