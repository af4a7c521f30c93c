"""Programs of the bundle that are run at points of the container's life, with its state on their standard input."""

from __future__ import annotations

import os
import select
import signal
import time

from pykrun.errors import PykrunError
from pykrun.oci.bundle import Hook
from pykrun.plain_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_KEPT = 4096
"""Bytes of what a hook says that are told when it fails: the last ones."""
_CHUNK = 65536
_LONGEST_WAIT = 86400
"""Seconds; poll takes at most 2^31 ms at once."""


class HookError(PykrunError):
    """A hook failed, or took too long."""


def run_hooks(stage: str, hooks: Sequence[Hook], state: dict[str, Any]) -> None:
    """Run the hooks of a stage one after the other, in the bundle's folder if it is there.

    :raise HookError: one failed: the others are not run.
    """
    said = dumps(state).encode()
    for index, hook in enumerate(hooks):
        why = _run(hook, said, state["bundle"])
        if why:
            raise HookError(f"error running {stage} hook #{index}: {hook.path}: {why}")


def _run(hook: Hook, said: bytes, folder: str) -> str:
    """Run one; return what went wrong."""
    state = os.memfd_create("state", os.MFD_CLOEXEC)  # as large as it may be, and nobody has to wait for a reader
    os.write(state, said)
    os.lseek(state, 0, os.SEEK_SET)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, state, 0), (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
    try:
        pid = _spawn(hook, folder, actions)
    except OSError as error:
        os.close(reader)
        return error.strerror or str(error)
    finally:
        os.close(state)
        os.close(writer)
    pidfd = os.pidfd_open(pid)
    os.set_blocking(reader, False)
    try:
        ended, words = _wait(pidfd, reader, hook.timeout)
        if not ended:
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
        os.close(reader)
    if not ended:
        return f"it did not end within {hook.timeout} seconds"
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return ""
    told = words.decode(errors="replace").strip().replace("\n", "; ")
    return (f"exit status {code}" if code > 0 else f"signal {-code}") + (f": {told}" if told else "")


def _spawn(hook: Hook, folder: str, actions: Sequence[Any]) -> int:
    """Start it in the folder: this process goes there for that long, and does not hold it afterwards.

    :raise OSError: it cannot be started.
    """
    environment = dict(word.split("=", 1) for word in hook.environment if "=" in word[1:])
    here = -1
    try:
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chdir(folder)
    except OSError:
        pass  # a late hook of a bundle that is gone; or no folder to come back to
    try:
        return os.posix_spawn(
            hook.path,
            hook.arguments,
            environment,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=range(1, 32),
        )
    finally:
        if here >= 0:
            _go_back(here)


def _go_back(here: int) -> None:
    try:
        os.fchdir(here)
    except OSError:
        pass  # no longer ours to enter; nothing of this process is relative to it
    os.close(here)


def _wait(pidfd: int, reader: int, timeout: int | None) -> tuple[bool, bytes]:
    """Wait for the end, and read meanwhile so that it need not wait for us; return whether it came, and the last words.

    :param timeout: seconds for all of it.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    words = b""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(reader, select.POLLIN)
    while True:
        left = _LONGEST_WAIT if deadline is None else min(deadline - time.monotonic(), _LONGEST_WAIT)
        if left <= 0:
            return False, words
        ready = [descriptor for descriptor, _ in poll.poll(left * 1000)]
        if reader in ready:
            said = _read(reader)
            words = (words + (said or b""))[-_KEPT:]
            if said == b"":  # it has closed them, and goes on
                poll.unregister(reader)
        if pidfd in ready:  # of what it left in the pipe, no more than it can hold: others may write there still
            return True, (words + (_read(reader) or b""))[-_KEPT:]


def _read(reader: int) -> bytes | None:
    """Read what is there; empty at the end, None for nothing yet."""
    try:
        return os.read(reader, _CHUNK)
    except BlockingIOError:
        return None
