"""A folder of the host and where `pykrun mount` shows it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.servers import Running
from tests.support.command import Pykrun


class Share(NamedTuple):
    """What is served, where it is mounted, and the running command."""

    source: Path
    target: Path
    running: Running


def serve(source: Path, target: Path, *words: str) -> Iterator[Share]:
    """Serve until the caller is done; it must end in order, and report nothing."""
    pykrun = Pykrun()
    try:
        with Running(pykrun, ["mount", str(target), "--shared-dir", str(source), *words]) as running:
            running.wait_for("mounted on")
            yield Share(source, target, running)
            if running.process.poll() is None:
                assert running.end(signal.SIGTERM) == 0
                assert running.said.count("\n") == 1, "no fault was reported"
    finally:
        assert pykrun.close() == []


@pytest.fixture
def top() -> Iterator[Path]:
    """In memory where there is some, which costs others nothing."""
    folder = Path(tempfile.mkdtemp(prefix="pykrun-suite", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    folder.chmod(0o755)
    for name in ("source", "target"):
        (folder / name).mkdir()
        (folder / name).chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def share(top: Path) -> Iterator[Share]:
    yield from serve(top / "source", top / "target")


def program(name: str, package: str = "") -> str:
    """Find a public tool, or skip with what brings it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name} on PATH (apt-get install {package or name})")
    return found


def run(command: Sequence[str | Path], cwd: Path, timeout: float = 120) -> str:
    """Run a tool to its end; it must be content."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
