"""The wheel in a fresh virtual environment, outside the checkout: it carries the init blob and compiles nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.command import ROOT

LIMIT = 120.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from a copy, so that the checkout keeps its own dist."""
    tree = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("src", "scripts"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    made = subprocess.run(
        [sys.executable, str(tree / "scripts/wheel.py"), str(tree)], stdout=subprocess.PIPE, timeout=LIMIT, check=True
    )
    (wheel,) = (tree / "dist").iterdir()
    assert made.stdout.decode().startswith(str(wheel))
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has nothing but the wheel."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin/python")]
    subprocess.run([*pip, "install", "-q", "--no-index", str(wheel)], check=True, timeout=LIMIT)
    return folder / "bin"


@pytest.fixture
def outside(tmp_path: Path) -> dict[str, str]:
    """An environment with a cache of its own and no compiler on PATH."""
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_what_is_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    machine = os.uname().machine
    assert f"pykrun/blob/data/{machine}/init" in names
    assert "pykrun/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks")) or "__pycache__" in name]


def test_the_runtime_is_a_command(installed: Path, outside: dict[str, str]) -> None:
    said = subprocess.run([installed / "pykrun-oci", "--version"], env=outside, stdout=subprocess.PIPE, check=True)
    assert said.stdout.startswith(b"pykrun-oci version ")


def test_two_builds_have_the_same_bytes(wheel: Path) -> None:
    tree = wheel.parent.parent
    before = wheel.read_bytes()
    subprocess.run(
        [sys.executable, str(tree / "scripts/wheel.py"), str(tree)],
        stdout=subprocess.DEVNULL,
        timeout=LIMIT,
        check=True,
    )
    assert wheel.read_bytes() == before


@pytest.mark.uml
@pytest.mark.root
def test_a_command_runs(installed: Path, outside: dict[str, str], tmp_path: Path) -> None:
    words = ["run", "--engine", "uml", "--root", "/", "--read-only", "--", "/bin/sh", "-c", "uname -r; exit 7"]
    done = subprocess.run(
        [str(installed / "pykrun"), *words], env=outside, cwd=tmp_path, capture_output=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (7, b"")
    assert done.stdout.decode().strip() != os.uname().release
    made = {path.name for path in (tmp_path / "cache/pykrun").iterdir()}
    assert "blob" not in made  # nothing was built


@pytest.mark.uml
@pytest.mark.root
def test_the_api_runs(installed: Path, outside: dict[str, str], tmp_path: Path) -> None:
    script = "import pykrun; print(pykrun.run(['/bin/echo', 'hello'], root='/', read_only=True, text=True).stdout)"
    done = subprocess.run(
        [str(installed / "python"), "-c", script], env=outside, cwd=tmp_path, capture_output=True, timeout=LIMIT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n\n", b"")
