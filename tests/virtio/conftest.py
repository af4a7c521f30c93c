"""The driver that most ring tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.virtio.driver import Driver


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver(16)
    yield driver
    driver.close()
