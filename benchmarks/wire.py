# SPDX-License-Identifier: Apache-2.0
"""Which local wire costs least between server and worker: an asyncio unix socket or pyzmq?

One child process sends N frames of a step of 32 chunks; the parent decodes them. Printed: microseconds of CPU a frame,
both processes together, frames sent one a turn of the loop. Needs pyzmq. Run: ``python benchmarks/wire.py``.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
import time

import msgspec
import uvloop

from lmi.api import TokenChunk
from lmi.workers.wire import Channel, Chunks, Commands, FromServer

N_FRAMES = 20000
STEP = [(f"{i:024x}", TokenChunk([i])) for i in range(32)]


async def send_socket(path: str) -> None:
    ignore = {"on_message": lambda _: None, "on_stream": lambda _: None, "on_closed": lambda _: None}
    channel = Channel(FromServer, Commands, **ignore)
    transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: channel, path)
    for _ in range(N_FRAMES):
        channel.send_stream(STEP)
        await asyncio.sleep(0)
    while transport.get_write_buffer_size():
        await asyncio.sleep(0.001)
    channel.close()


async def receive_socket(path: str) -> None:
    count, done = 0, asyncio.get_running_loop().create_future()

    def on_stream(chunks: Chunks) -> None:
        nonlocal count
        count += 1
        if count == N_FRAMES:
            done.set_result(None)

    channel = Channel(FromServer, Chunks, on_message=lambda _: None, on_stream=on_stream, on_closed=lambda _: None)
    server = await asyncio.get_running_loop().create_unix_server(lambda: channel, path)
    start_child("socket", path)
    await done
    server.close()


async def send_zmq(path: str) -> None:
    import zmq
    import zmq.asyncio

    socket = zmq.asyncio.Context().socket(zmq.PUSH)
    socket.connect(f"ipc://{path}")
    encode = msgspec.msgpack.Encoder().encode
    for _ in range(N_FRAMES):
        await socket.send(encode(STEP), copy=False)
    socket.close(linger=10000)


async def receive_zmq(path: str) -> None:
    import zmq
    import zmq.asyncio

    socket = zmq.asyncio.Context().socket(zmq.PULL)
    socket.bind(f"ipc://{path}")
    start_child("zmq", path)
    decode = msgspec.msgpack.Decoder(Chunks).decode
    for _ in range(N_FRAMES):
        decode(await socket.recv())
    socket.close()


def start_child(kind: str, path: str) -> None:
    os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, __file__, kind, path])


def cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def measure(kind: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        before_s, start_s = cpu_s(resource.RUSAGE_SELF) + cpu_s(resource.RUSAGE_CHILDREN), time.monotonic()
        receive = receive_socket if kind == "socket" else receive_zmq
        uvloop.run(receive(f"{folder}/s"))
        os.wait()
        used_s = cpu_s(resource.RUSAGE_SELF) + cpu_s(resource.RUSAGE_CHILDREN) - before_s
        print(f"{kind:8} {used_s / N_FRAMES * 1e6:8.1f} us CPU a frame   {(time.monotonic() - start_s):6.2f} s wall")
        return used_s


def main() -> None:
    if len(sys.argv) == 3:
        kind, path = sys.argv[1:]
        uvloop.run(send_socket(path) if kind == "socket" else send_zmq(path))
        return
    socket_s, zmq_s = measure("socket"), measure("zmq")
    print(f"pyzmq costs {zmq_s / socket_s:.2f} times the unix socket (start of the child included in both)")


if __name__ == "__main__":
    main()
