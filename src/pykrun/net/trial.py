"""Whether passt works here: for people who ask, not for the path of a run."""

from __future__ import annotations

import select
import subprocess
import time
from pathlib import Path

from pykrun.machine import Network
from pykrun.net import passt
from pykrun.net.stream import make_pair

_PATIENCE = 5.0
_SETTLED = "Seccomp:\t2"  # it filters its own system calls last of all
_LATER_OPTION = "--no-copy-routes"  # of May 2023

OLD = "of early 2023: it resets a connection on which the other side says nothing for 24 seconds, see docs/network.md"


def works() -> tuple[bool, str]:
    """Start one and end it; return whether that went well, and what it is, or what it said.

    :raise MissingError: it is not installed.
    """
    ours, theirs = make_pair()
    with ours:
        with theirs:
            process = passt.start(theirs, Network())
        try:
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end and not select.select([process.pidfd], [], [], 0.02)[0]:
                if _SETTLED in Path(f"/proc/{process.pid}/status").read_text():
                    return True, _describe()
            reason = process.describe_end() or f"not ready after {_PATIENCE:g} seconds"
            hint = passt.hint(reason)
            return False, f"passt: {reason} ({hint})" if hint else f"passt: {reason}"
        finally:
            process.close()


def _describe() -> str:
    program = passt.find()
    return f"passt, {program}" + ("" if _LATER_OPTION in _said(program, "--help") else f", {OLD}")


def _said(program: Path | None, option: str) -> str:
    try:
        done = subprocess.run((str(program), option), capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout + done.stderr
