# SPDX-License-Identifier: Apache-2.0
"""Runs a command in a network of its own that leads nowhere, and writes down what was asked of the world outside.

``python isolation.py FILE FOLDER COMMAND...`` as root. A name server and the address of a cloud's credentials are here,
and answer nobody; FILE has a line for each that was asked: ``lookup NAME``, ``metadata``. FOLDER is read-only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
METADATA = ("169.254.169.254", 80)
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP = 0x8913, 0x8914, 0x8916, 1


def isolate(folder: str) -> None:
    """Leave the network of this process, and its mounts, for others of its own, where a folder cannot be written."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network of its own can be made")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        _set_address(probe, "lo:1", METADATA[0])
        flags = struct.unpack_from("h", fcntl.ioctl(probe, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0)), 16)[0]
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    servers = Path(tempfile.mkdtemp()) / "resolv.conf"
    servers.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(servers), "/etc/resolv.conf"], check=True)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def _set_address(probe: socket.socket, name: str, address: str) -> None:
    wanted = struct.pack("16sHH4s8x8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(address))
    fcntl.ioctl(probe, _SIOCSIFADDR, wanted)


def note_questions(file: Path, parent: int) -> None:
    """Write down whoever asks, until the parent has ended."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names,
        socket.socket() as metadata,
        file.open("a") as notes,
    ):
        names.bind(("127.0.0.1", 53))
        metadata.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        metadata.bind(METADATA)
        metadata.listen()
        notes.write("watching\n")
        notes.flush()
        while os.getppid() == parent:
            ready, _, _ = select.select([names, metadata], [], [], 0.1)
            if names in ready:
                notes.write(f"lookup {_name_in(names.recv(512))}\n")
            if metadata in ready:
                metadata.accept()[0].close()
                notes.write("metadata\n")
            notes.flush()


def _name_in(question: bytes) -> str:
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    return ".".join(labels)


def main() -> None:
    """Isolate, watch, and become the command."""
    file, folder, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    isolate(folder)
    parent = os.getpid()
    if os.fork() == 0:
        note_questions(file, parent)
        os._exit(0)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
