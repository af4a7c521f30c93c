"""What all tests share: --full, engines that may be missing, the pykrun command, and the check that nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

from tests.support.command import Pykrun
from tests.support.processes import adopt_orphans, children, describe, end, still_running

ENGINES = {"uml": ("linux.uml", "user-mode-linux"), "qemu": ("qemu-system-x86_64", "qemu-system-x86")}
"""Engine to its program and the package that brings it. The product is not asked: it may be wrong."""

CONTAINERS = {"podman": ("podman", "podman conmon netavark aardvark-dns"), "containerd": ("ctr", "containerd runc")}
"""The same for those that drive our runtime."""

REQUIRE = "PYKRUN_REQUIRE_ENGINES"
GRACE = 3.0
"""Seconds that processes have to go away after a test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long tests too (marker: full)")


def pytest_configure(config: pytest.Config) -> None:
    adopt_orphans()
    # nohup, or `&` in a script, leave signals ignored, and every program that a test starts would inherit that.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    # A busy machine is no bug: tests bound themselves in time, examples need no bound of milliseconds.
    hypothesis.settings.register_profile("pykrun", deadline=None)
    hypothesis.settings.load_profile("pykrun")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    long = [item for item in items if item.get_closest_marker("full")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    for engine, (program, package) in (ENGINES | CONTAINERS).items():
        if item.get_closest_marker(engine) and shutil.which(program) is None:
            reason = f"engine {engine}: no {program} on PATH (apt-get install {package})"
            if engine in os.environ.get(REQUIRE, "").split(","):
                pytest.fail(f"{reason}, and {REQUIRE} asks for it", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ENGINES])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn, by the name that --engine takes."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True, scope="session")
def _runtime_directory() -> Iterator[None]:
    """VMs that tests start from this process are listed in a place of their own, and in the end nothing is left there.

    `pykrun ps` removes what VMs have left whose supervisors were killed.
    """
    folder = tempfile.mkdtemp(prefix="pkrun")
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = folder
    yield
    left = Pykrun.swept(folder)
    if before is None:
        del os.environ["XDG_RUNTIME_DIR"]
    else:
        os.environ["XDG_RUNTIME_DIR"] = before
    shutil.rmtree(folder)
    if left:
        pytest.fail(f"left in the runtime directory: {left}", pytrace=False)


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    """No test leaves a process, whoever its parent was."""
    before = children()
    yield
    left = still_running(before, GRACE)
    if left:
        descriptions = [describe(pid) for pid in left]
        end(left)
        pytest.fail("left running: " + "; ".join(descriptions), pytrace=False)


@pytest.fixture
def run_pykrun() -> Iterator[Pykrun]:
    """`run_pykrun(["run", ...], stdin=b"", timeout=60)` runs the command; `.start` does not wait for it."""
    pykrun = Pykrun()
    yield pykrun
    left = pykrun.close()
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)
