"""Stopping everything in a jail for a while: the program and what it has started, but for the keeper."""

from __future__ import annotations

import os
import signal
import time

_PATIENCE = 0.2
"""Seconds that a program has to stop: it does when it next comes out of the host's kernel."""


def freeze(keeper: int) -> None:
    """Stop them all; returns when they have been told.

    The program first, as nothing is started then any more. Its children may be traced by it (User Mode Linux runs the
    guest's processes so): a signal stops them only for their tracer to handle it, for which SIGSTOP is a fault and
    SIGALRM a tick of its clock. So one that runs is kept until the program goes on.
    """
    for program in _children(keeper):
        _send(keeper, program, signal.SIGSTOP)
        deadline = time.monotonic() + _PATIENCE
        while _state(program) not in "Tt" and time.monotonic() < deadline:
            time.sleep(0.001)
        for one in _descendants(program):
            if not _is_traced(one):
                _send(program, one, signal.SIGSTOP)
            elif _state(one) not in "Tt":
                _send(program, one, signal.SIGALRM)


def thaw(keeper: int) -> None:
    """Let them go on."""
    for program in _children(keeper):
        for one in _descendants(program):
            if not _is_traced(one):
                _send(program, one, signal.SIGCONT)
        _send(keeper, program, signal.SIGCONT)


def _send(above: int, pid: int, number: int) -> None:
    """Signal a process below another one, and none that has got its number meanwhile."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if pid in _descendants(above):
            signal.pidfd_send_signal(pidfd, number)
    except OSError:
        pass
    finally:
        os.close(pidfd)


def _descendants(pid: int) -> list[int]:
    children = _children(pid)
    return children + [one for child in children for one in _descendants(child)]


def _children(pid: int) -> list[int]:
    """The children of a process' threads."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def _state(pid: int) -> str:
    """Its state, as /proc has it; T for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "T"


def _is_traced(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/status") as file:
            return any(line.startswith("TracerPid:") and int(line[10:]) for line in file)
    except OSError:
        return False
