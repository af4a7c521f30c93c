"""Compiles and loads the seam before the tests import krun_init; a cable with a guest at one end."""

from __future__ import annotations

import json  # noqa: F401 - krun_init.jsonload must find the real package here
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import seam

LIBRARY = seam.build()
seam.load(LIBRARY)

from tests.dhcp.cable import Cable  # noqa: E402 - needs the seam
from tests.dhcp.guest import Guest  # noqa: E402
from tests.dhcp.scripted import Scripted  # noqa: E402


@pytest.fixture
def cable() -> Iterator[Cable]:
    """Two network namespaces and the cable between them; gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    cable = Cable()
    yield cable
    cable.close()


@pytest.fixture
def guest(cable: Cable, tmp_path: Path) -> Iterator[Guest]:
    """What runs the product's set-up at the guest's end of the cable; ended after the test."""
    guest = Guest(cable, tmp_path, LIBRARY)
    yield guest
    guest.close()


@pytest.fixture
def server(cable: Cable) -> Iterator[Scripted]:
    """A server that does what the test says; ended after the test."""
    server = Scripted(cable)
    yield server
    server.close()
