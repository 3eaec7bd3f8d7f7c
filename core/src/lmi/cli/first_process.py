# SPDX-License-Identifier: Apache-2.0
"""What the first process of a container owes the others: it takes in their orphans, and passes signals on.

The kernel gives orphans to process 1, and keeps from it every signal that it has no handler for. The command itself
runs in a child, where children and signals are as everywhere; when it ends, the kernel ends whatever else is left.

Source: pid_namespaces(7); what ``tini`` does.
"""

from __future__ import annotations

import os
import signal
import sys

_BY_SIGNAL = 128
"""What shells add to the number of the signal that ended a process."""

_OWN = frozenset({
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP,
    signal.SIGTTIN, signal.SIGTTOU,
})  # fmt: skip
"""Signals that mean the process that gets them, and no other."""


def leave_first_place() -> None:
    """Go on in a child, where this process is the first of its container; nothing happens where it is another.

    The first process stays behind and ends as the child does. Nothing with threads may have been started.
    """
    if os.getpid() != 1:
        return
    passed_on = signal.valid_signals() - _OWN
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*passed_on, signal.SIGTTOU})
    child = os.fork()
    if child:
        os._exit(_stay(child, passed_on))
    os.setpgid(0, 0)  # Ctrl-C of a terminal reaches the child alone, and not once more by way of its parent
    if sys.stdin is not None and sys.stdin.isatty():
        os.tcsetpgrp(sys.stdin.fileno(), os.getpgrp())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stay(child: int, passed_on: set[signal.Signals]) -> int:
    """Reap what ends and pass signals on, until the child has ended; its exit code."""
    while True:
        number = signal.sigwaitinfo(passed_on).si_signo
        if number != signal.SIGCHLD:
            os.kill(child, number)  # it is there until it is reaped, which is done below alone
        elif (status := _reaped(child)) is not None:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _BY_SIGNAL - code


def _reaped(child: int) -> int | None:
    """Reap every process that has ended; the status of the child, if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # none is left
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status
