"""Contexts for the tests of the API."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.krun import krun_create_ctx, krun_free_ctx
from tests.boot.conftest import python_for_all
from tests.krun.programs import Programs
from tests.support.command import ROOT, Pykrun

__all__ = ["python_for_all"]
APPLETS = (
    "sh",
    "cat",
    "env",
    "id",
    "ip",
    "ls",
    "mount",
    "nc",
    "mkdir",
    "ping",
    "sleep",
    "stat",
    "touch",
    "tr",
    "tty",
    "wc",
    "echo",
)


@pytest.fixture
def ctx() -> Iterator[int]:
    """A context of the test's own. It may have been freed when the test ends."""
    made = krun_create_ctx()
    assert made >= 0
    yield made
    krun_free_ctx(made)


@pytest.fixture(scope="module")
def shared_ctx() -> Iterator[int]:
    """A context for calls that fail, and so leave it as it is."""
    made = krun_create_ctx()
    assert made >= 0
    yield made
    assert krun_free_ctx(made) == 0


@pytest.fixture(scope="session")
def shell_root() -> Iterator[Path]:
    """A directory with a static shell, as a guest's root. Everybody may read it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox on PATH (apt-get install busybox-static)")
    root = Path(tempfile.mkdtemp(prefix="pk"))
    root.chmod(0o755)
    (root / "bin").mkdir(parents=True)
    for folder in ("dev", "etc", "mnt", "proc", "sys", "tmp"):
        (root / folder).mkdir()
    shutil.copy(Path(busybox).resolve(), root / "bin/busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "marker").write_text("from the root\n")
    yield root
    shutil.rmtree(root)


@pytest.fixture
def programs(engine: str, shell_root: Path, run_pykrun: Pykrun) -> Programs:
    """Programs whose VMs that engine runs."""
    return Programs(engine, shell_root, run_pykrun)


@pytest.fixture(
    params=[
        pytest.param("uml", marks=pytest.mark.uml),
        pytest.param("qemu", marks=[pytest.mark.qemu, pytest.mark.full]),
    ]
)
def programs_once(request: pytest.FixtureRequest, shell_root: Path, run_pykrun: Pykrun) -> Programs:
    """For what no engine changes: on the slow one only in the long run."""
    return Programs(request.param, shell_root, run_pykrun)


@pytest.fixture(scope="session")
def own_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An init that knows nothing of ours: it looks for libkrun's words, reports by the ioctl, and reboots."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    assert compiler is not None, "no C compiler: apt-get install musl-tools"
    target = tmp_path_factory.mktemp("init") / "init"
    source = Path(__file__).parent / "own_init.c"
    subprocess.run(
        [compiler, "-static", "-Os", "-Wall", "-Werror", "-o", str(target), str(source)], check=True, timeout=60
    )
    return target


@pytest.fixture(scope="session")
def guest_tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static program of the boot tests."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    assert compiler is not None, "no C compiler: apt-get install musl-tools"
    target = tmp_path_factory.mktemp("tool") / "tool"
    sources = sorted(str(path) for path in (ROOT / "tests/boot/guest").glob("*.c"))
    subprocess.run([compiler, "-static", "-Os", "-s", "-o", str(target), *sources], check=True, timeout=120)
    return target
