"""Roots for VMs of the public API: a shell and a few tools."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykrun import Root
from tests.support.descriptors import open_descriptors

LIMIT = 60.0
TOOLS = ("sh", "cat", "sleep", "ls", "dd", "head", "mount", "stat", "yes", "id", "env", "hostname", "df", "wc", "touch")


@pytest.fixture(scope="session")
def busybox() -> Path:
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("no busybox on PATH (apt-get install busybox-static)")
    return Path(path).resolve()


@pytest.fixture
def box(busybox: Path) -> Callable[[], Root]:
    """Makes a root with a shell, to which a test adds."""

    def make() -> Root:
        root = Root()
        for tool in TOOLS:
            root.file(f"/bin/{tool}", busybox, mode=0o755)
        return root

    return make


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    """No test leaves a descriptor open in this process."""
    before = open_descriptors()
    yield
    left = {number: name for number, name in open_descriptors().items() if before.get(number) != name}
    assert not left
