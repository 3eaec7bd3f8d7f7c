# SPDX-License-Identifier: Apache-2.0
"""A handler whose calls wait for each other."""

import asyncio

from djl_python import Output

present = 0
everybody = asyncio.Event()


async def handle(inputs):
    global present  # noqa: PLW0603 - as handlers do
    if inputs.is_empty():
        return None
    wanted = inputs.get_as_json()["wait_for"]
    present += 1
    if present == wanted:
        everybody.set()
    await everybody.wait()
    return Output().add({"met": present})
