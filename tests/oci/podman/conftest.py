"""Podman with our runtime; and, with --full, with crun, which shows that it is not the test that is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.enclave import OURS, Impossible
from tests.support.podman import Podman, Store


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/oci/podman/" in str(item.path):
            item.add_marker("podman")
            item.add_marker("root")
            item.add_marker("uml" if os.uname().machine == "x86_64" else "qemu")


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    try:
        store = Store()
    except Impossible as error:
        if "podman" in os.environ.get("PYKRUN_REQUIRE_ENGINES", "").split(","):
            raise
        pytest.skip(str(error))
    yield store
    store.close()


def _used(podman: Podman) -> Iterator[Podman]:
    """Afterwards no container and nothing of one may be there."""
    yield podman
    left = podman.clear()
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture(params=[OURS, pytest.param("crun", marks=pytest.mark.full)])
def podman(request: pytest.FixtureRequest, store: Store) -> Iterator[Podman]:
    """Podman with each runtime."""
    yield from _used(Podman(store, request.param))


@pytest.fixture
def ours(store: Store) -> Iterator[Podman]:
    """Podman with our runtime only, for what a container without a VM has not."""
    yield from _used(Podman(store, OURS))
