"""Containerd with our runtime; and, with --full, with runc, which shows that it is not the test that is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.containerd import Containerd
from tests.support.enclave import OURS, Impossible, ours

Run = Callable[..., list[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/oci/containerd/" in str(item.path):
            item.add_marker("containerd")
            item.add_marker("root")
            item.add_marker("uml" if os.uname().machine == "x86_64" else "qemu")


@pytest.fixture(scope="session")
def daemon() -> Iterator[Containerd]:
    try:
        daemon = Containerd()
    except Impossible as error:
        if "containerd" in os.environ.get("PYKRUN_REQUIRE_ENGINES", "").split(","):
            raise
        pytest.skip(str(error))
    yield daemon
    daemon.close()


@pytest.fixture
def containerd(daemon: Containerd) -> Iterator[Containerd]:
    """Afterwards no container and nothing of one may be there."""
    yield daemon
    left = daemon.clear()
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture(params=[OURS, pytest.param("runc", marks=pytest.mark.full)])
def run(request: pytest.FixtureRequest) -> Run:
    """`run(*options)`: the words of `ctr run` with each runtime under containerd's own shim."""
    binary = ours() if request.param == OURS else request.param
    return lambda *options: ["run", "--runtime", "io.containerd.runc.v2", "--runc-binary", binary, *options]
