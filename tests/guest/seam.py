"""Compile the guest's native seam for the running Python, so that the one implementation is what is tested."""

from __future__ import annotations

import atexit
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "krun_init" / "_linux.c"
NAME = "krun_init._linux"


def build() -> Path:
    """The extension module, in a temporary folder that goes away with this process."""
    folder = tempfile.TemporaryDirectory(prefix="krun-seam-")
    atexit.register(folder.cleanup)
    target = Path(folder.name) / "_linux.so"
    include = sysconfig.get_path("include")
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-shared", "-fPIC"]
    command = ["gcc", *flags, f"-I{include}", str(SOURCE), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if result.returncode:
        raise RuntimeError(f"the guest's seam does not compile (needs gcc and Python's headers):\n{result.stderr}")
    return target


def load(library: Path) -> None:
    """Make it importable as `krun_init._linux` in this process."""
    spec = importlib.util.spec_from_file_location(NAME, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module
