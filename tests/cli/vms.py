"""VMs that run while a test does things to them from the command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pykrun.vms import Client, connect
from tests.support.command import Pykrun

LIMIT = 60.0
TOOLS = (
    *("sh", "cat", "sleep", "id", "env", "pwd", "head", "wc", "ps", "kill", "stty", "tty", "true", "false", "date"),
    *("mkdir", "md5sum", "dd", "ls", "mount"),
)


def busybox() -> str:
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("no busybox on PATH (apt-get install busybox-static)")
    return os.path.realpath(found)


def start(
    pykrun: Pykrun, engine: str, script: str, *options: str, trap: str = "", **streams: Any
) -> subprocess.Popen[bytes]:
    """Start a VM with a shell and tools that runs a script and says `ready` first; wait for that.

    :param trap: arguments of a trap that is set by then.
    """
    program = busybox()
    words = ["run", "--engine", engine, "--timeout", "300", *(["--accel", "tcg"] if engine == "qemu" else [])]
    words += [word for tool in TOOLS for word in ("--file", f"/bin/{tool}={program}:0755")]
    words += [
        "--env",
        "PATH=/bin",
        "--tmpfs",
        "/tmp",
        "--text",
        "/etc/passwd=root:x:0:0::/:/bin/sh\nann:x:7:8::/:/bin/sh\n",
    ]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    process = pykrun.start(
        [*words, *options, "--", "/bin/sh", "-c", f"{f'trap {trap}; ' if trap else ''}echo ready; {script}"], **streams
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", process.communicate()
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it; by SIGTERM twice, which does not wait for a grace."""
    if process.poll() is None:
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT)


def run(
    pykrun: Pykrun, words: Sequence[str], data: bytes | None = None, limit: float = LIMIT
) -> subprocess.CompletedProcess[bytes]:
    """Run `pykrun WORDS` to its end."""
    return pykrun(list(words), stdin=data or b"", timeout=limit)


@contextmanager
def visit(pykrun: Pykrun, name: str) -> Iterator[Client]:
    """A connection to a VM of that user's list."""
    before = os.environ["XDG_RUNTIME_DIR"]
    os.environ["XDG_RUNTIME_DIR"] = str(pykrun.folder / "run")
    try:
        client = connect(name)
    finally:
        os.environ["XDG_RUNTIME_DIR"] = before
    with client:
        yield client
