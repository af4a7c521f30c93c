"""The runtime itself, without anybody around it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.oci.runtime.runtime import Console, Runtime
from tests.support.command import Pykrun

ENGINE = "uml" if os.uname().machine == "x86_64" else "qemu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/oci/runtime/" in str(item.path):
            item.add_marker("root")
            item.add_marker(ENGINE)


def _used(runtime: Runtime) -> Iterator[Runtime]:
    """Afterwards no state, no file, no process may be left."""
    yield runtime
    left = runtime.close()
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture
def runtime(run_pykrun: Pykrun) -> Iterator[Runtime]:
    """With an engine that boots fast."""
    yield from _used(Runtime(run_pykrun, ENGINE))


@pytest.fixture
def each(run_pykrun: Pykrun, engine: str) -> Iterator[Runtime]:
    """With each engine."""
    yield from _used(Runtime(run_pykrun, engine))


@pytest.fixture
def console(run_pykrun: Pykrun) -> Iterator[Console]:
    console = Console(run_pykrun.folder)
    yield console
    console.close()
