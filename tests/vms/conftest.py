"""Processes that have a VM listed, as supervisors do, and a runtime directory of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import FIND

_PROGRAM = """
import sys
from pykrun import vms
from pykrun.errors import PykrunError
try:
    entry = vms.register(sys.argv[1] or None)
except PykrunError as error:
    print("refused", error, flush=True)
    sys.exit(1)
if entry is None:
    print("unlisted", flush=True)
    sys.exit(2)
entry.write({"status": "running", "started": 1.5, "command": ["a", "b c"]})
print("listed", entry.name, flush=True)
sys.stdin.read()
entry.close()
"""


class Holders:
    """Starts processes that register a VM."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def begin(self, name: str = "") -> subprocess.Popen[str]:
        """Start one, and do not wait for what it says."""
        command = [sys.executable, "-I", "-S", "-c", f"{FIND}\n{_PROGRAM}", name]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        return process

    def __call__(self, name: str = "") -> tuple[subprocess.Popen[str], str]:
        """Start one, and return it with what it says: `listed NAME`, `refused WHY` or `unlisted`."""
        process = self.begin(name)
        return process, heard(process)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait(30)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def let_go(process: subprocess.Popen[str]) -> None:
    """Have it end in order."""
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0


@pytest.fixture
def holders() -> Iterator[Holders]:
    made = Holders()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `pykrun` is made."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path
