"""What the init answers where it is not PID 1 of a virtual machine: it tells its version, or refuses."""

from __future__ import annotations

import posix

from krun_init.errors import SETUP_FAILED
from krun_init.version import VERSION


def answer(arguments: list[str]) -> int:
    """Say it; returns the exit code. Nothing is mounted, configured or rebooted."""
    if arguments == ["--version"]:
        posix.write(1, f"krun_init {VERSION}, init of pykrun's microVMs\n".encode())
        return 0
    posix.write(2, b"krun_init: refused: this is the init of a virtual machine, it only runs as PID 1 there\n")
    return SETUP_FAILED
