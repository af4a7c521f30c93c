"""Programs of the bundle that are run at points of the container's life, with its state on their standard input."""

from __future__ import annotations

import os
import select
import signal

from pykrun.errors import PykrunError
from pykrun.oci.bundle import Hook
from pykrun.plain_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_KEPT = 4096
_LONGEST_WAIT = 86400
"""Seconds; poll takes at most 2^31 ms at once."""


class HookError(PykrunError):
    """A hook failed, or took too long."""


def run_hooks(stage: str, hooks: Sequence[Hook], state: dict[str, Any]) -> None:
    """Run the hooks of a stage one after the other.

    :raise HookError: one failed: the others are not run.
    """
    said = dumps(state).encode()
    for index, hook in enumerate(hooks):
        why = _run(hook, said)
        if why:
            raise HookError(f"error running {stage} hook #{index}: {hook.path}: {why}")


def _run(hook: Hook, said: bytes) -> str:
    """Run one; return what went wrong."""
    state = os.memfd_create("state", os.MFD_CLOEXEC)  # as large as it may be, and nobody has to wait for a reader
    os.write(state, said)
    os.lseek(state, 0, os.SEEK_SET)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    environment = dict(word.split("=", 1) for word in hook.environment if "=" in word[1:])
    actions = [(os.POSIX_SPAWN_DUP2, state, 0), (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
    try:
        pid = os.posix_spawn(hook.path, hook.arguments, environment, file_actions=actions, setpgroup=0, setsigmask=())
    except OSError as error:
        os.close(reader)
        return error.strerror or str(error)
    finally:
        os.close(state)
        os.close(writer)
    pidfd = os.pidfd_open(pid)
    try:
        ended = _wait(pidfd, reader, hook.timeout)
        if not ended:
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        words = _last_words(reader)
    finally:
        os.close(pidfd)
        os.close(reader)
    if not ended:
        return f"it did not end within {hook.timeout} seconds"
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return ""
    return (f"exit status {code}" if code > 0 else f"signal {-code}") + (f": {words}" if words else "")


def _wait(pidfd: int, reader: int, timeout: int | None) -> bool:
    """Wait for the end; what it says meanwhile is left in the pipe, of which it gets no more than that."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while timeout is None or timeout > _LONGEST_WAIT:
        if poll.poll(_LONGEST_WAIT * 1000):
            return True
        timeout = None if timeout is None else timeout - _LONGEST_WAIT
    return bool(poll.poll(timeout * 1000))


def _last_words(reader: int) -> str:
    os.set_blocking(reader, False)
    try:
        return os.read(reader, _KEPT).decode(errors="replace").strip().replace("\n", "; ")
    except BlockingIOError:
        return ""
