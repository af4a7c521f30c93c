"""Namespaces for the tests of the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.internet import SERVER4, SERVER6, Internet


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[Internet]:
    """A host with routes, and a server."""
    internet = Internet(tmp_path)
    yield internet
    internet.close()


@pytest.fixture
def passt() -> str:
    """The program; a test that needs it is skipped where it is missing."""
    path = shutil.which("passt")
    if path is None:
        pytest.skip("no passt on PATH (apt-get install passt)")
    return path


@pytest.fixture(params=[SERVER4, SERVER6], ids=["IPv4", "IPv6"])
def peer(request: pytest.FixtureRequest) -> str:
    """The address of the other side."""
    address: str = request.param
    return address
