"""Compiles and loads the seam before the tests import krun_init."""

from __future__ import annotations

import json  # noqa: F401 - krun_init.jsonload must find the real package here
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import seam

LIBRARY = seam.build()
seam.load(LIBRARY)

from tests.guest.machine import Machine  # noqa: E402 - needs the seam's path


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine made of namespaces, with init as its PID 1; ended and checked after the test."""
    machine = Machine(tmp_path, LIBRARY)
    yield machine
    machine.close()
