"""The linters, as tests: whoever runs ./test has run them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.house.sources import ROOT, shell_scripts


def clean(command: Sequence[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{' '.join(command[:6])} ...\n{result.stdout}{result.stderr}"


def test_ruff_check() -> None:
    clean([sys.executable, "-m", "ruff", "check", "."])


def test_ruff_format() -> None:
    clean([sys.executable, "-m", "ruff", "format", "--check", "."])


def test_mypy() -> None:
    clean([sys.executable, "-m", "mypy"])


def test_mypy_of_programs_beside_the_package() -> None:
    clean([sys.executable, "-m", "mypy", "benchmarks", "examples", "tests/support", "tests/house", "tests/conftest.py"])


def test_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on PATH (apt-get install shellcheck)")
    clean(["shellcheck", "-x", *(str(path.relative_to(ROOT)) for path in shell_scripts())])
