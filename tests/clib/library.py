"""The library as tests use it: built, and programs of C compiled against it with pkg-config, as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from pykrun import clib
from pykrun.errors import MissingError
from tests.support.command import ROOT, cache_folder

HERE = Path(__file__).parent
TIMEOUT = 60.0
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread")


@cache
def folder() -> Path:
    """The library's folder, as `pykrun lib --path` prints it; tests are skipped where it cannot be."""
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config on PATH (apt-get install pkg-config)")
    try:
        return clib.find() or clib.build()
    except MissingError as error:
        pytest.skip(str(error))


def environment(**more: str) -> dict[str, str]:
    """Nothing but what the library needs: where the cache is, which is below HOME unless this says so."""
    return {"XDG_CACHE_HOME": str(cache_folder()), "PATH": os.environ["PATH"], **more}


@cache
def compiled(source: str, *flags: str, linked: bool = True) -> Path:
    """Compile a program of tests/clib or, by its whole path, another; it stays for all tests of the run."""
    output = Path(tempfile.mkdtemp(dir=_scratch())) / Path(source).stem
    words = _pkg_config() if linked else ("-ldl",)
    done = subprocess.run(
        ["gcc", *FLAGS, "-o", str(output), str(HERE / source), *flags, *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return output


@cache
def _scratch() -> str:
    """A short path that others may pass, gone with this process."""
    import atexit

    path = tempfile.mkdtemp(prefix="pkc")
    os.chmod(path, 0o755)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def _pkg_config() -> tuple[str, ...]:
    done = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libkrun"],
        env={**os.environ, "PKG_CONFIG_PATH": str(folder() / "pkgconfig")},
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    return tuple(done.stdout.split())


def run(
    program: Path, *words: str | Path, env: dict[str, str] | None = None, timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in an environment without anything of ours."""
    return subprocess.run(
        [program, *words],
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd="/",
    )


__all__ = ["ROOT", "compiled", "environment", "folder", "run"]
