"""Fixtures of the boot tests: the guest's programs and a VM on each engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.boot.vm import Vm
from tests.support.command import ROOT, Pykrun

NOBODY = 65534
GUEST = Path(__file__).parent / "guest"


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's static program, compiled once."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    assert compiler is not None, "no C compiler: apt-get install musl-tools"
    target = tmp_path_factory.mktemp("guest") / "tool"
    sources = sorted(str(path) for path in GUEST.glob("*.c"))
    flags = ["-static", "-Os", "-Wall", "-Wextra", "-Werror", "-s"]
    subprocess.run([compiler, *flags, "-o", str(target), *sources], check=True, timeout=120)
    return target


@pytest.fixture(scope="session")
def busybox() -> Path:
    """A static shell for the guest."""
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("no busybox on PATH (apt-get install busybox-static)")
    return Path(path).resolve()


@pytest.fixture(
    params=[
        pytest.param("uml", marks=pytest.mark.uml),
        pytest.param("qemu", marks=[pytest.mark.qemu, pytest.mark.full]),
    ]
)
def vm_once(request: pytest.FixtureRequest, tool: Path, run_pykrun: Pykrun) -> Vm:
    """For what the init or the supervisor decides and no engine changes: on the slow engine only in the long run."""
    return Vm(request.param, tool, run_pykrun)


@pytest.fixture
def vm(engine: str, tool: Path, run_pykrun: Pykrun) -> Vm:
    """`pykrun run` with that engine."""
    return Vm(engine, tool, run_pykrun)


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.fixture
def python_for_all() -> str:
    """A Python that an ordinary user may start and that reads the sources, if there is one."""
    check = f"import sys; assert sys.version_info >= (3, 11); open({str(ROOT / 'src/pykrun/version.py')!r})"
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if python is None:
            continue
        try:
            command = [python, "-I", "-S", "-c", check]
            if subprocess.run(command, preexec_fn=become_nobody, stderr=subprocess.DEVNULL, timeout=30).returncode == 0:
                return python
        except PermissionError:
            continue
    pytest.skip("no Python >= 3.11 that every user may start and that may read this checkout")
