"""The examples do what they say."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.command import ROOT

pytestmark = pytest.mark.uml


def example(name: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_three_lines() -> None:
    assert re.fullmatch(r"Linux [^\n]+\n touch: [^\n]+Read-only file system\n 1\n", example("three_lines.py"))
    assert platform.release() not in example("three_lines.py")


def test_secret() -> None:
    assert example("secret.py") == "the key was read\nand is gone\nit was never listed\n"


def test_service() -> None:
    if shutil.which("passt") is None:
        pytest.skip("no passt on PATH (apt-get install passt)")
    lines = example("service.py").splitlines()
    assert "<p>hello from a VM</p>" in lines
    assert any(line.startswith("log: ") and "GET / HTTP" in line for line in lines)
    assert lines[-1].startswith("stopped with ")


def test_asynchronous() -> None:
    lines = example("asynchronous.py").splitlines()
    assert lines[:3] == [
        "0: exit code 0, wrote 'good\\n'",
        "1: exit code 3, wrote ''",
        "2: exit code 0, wrote '65534\\n'",
    ]
    assert not lines[3].startswith("3: exit code 0")
    assert lines[4:] == ["hello"]
