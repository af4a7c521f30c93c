"""The other kind of machine: nothing for it runs here by itself. Its compiler, or why a test has to do without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pykrun.blob.targets import TARGETS
from pykrun.blob.zig import Zig, find_zig
from pykrun.host.numbers import MACHINE

OTHER = "aarch64" if MACHINE == "x86_64" else "x86_64"


def compiler_for(target: str) -> Zig:
    """The compiler for a key of `TARGETS`; skips the test without it."""
    found = find_zig(TARGETS[target])
    if found is None:
        pytest.skip("no cross compiler (./setup cross)")
    return found


def engine_for_other() -> Path:
    """QEMU for guests of the other kind; skips the test without it."""
    found = shutil.which(f"qemu-system-{OTHER}")
    if found is None:
        pytest.skip(f"no qemu-system-{OTHER} on PATH (./setup cross)")
    return Path(found)
