"""What every test here must leave as it was: descriptors and mappings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vhost_user.devices import Echo
from tests.vhost_user.frontend import FrontEnd, mapped_guests, open_descriptors
from tests.virtio.driver import Driver


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    before = open_descriptors(), mapped_guests()
    yield
    assert (open_descriptors(), mapped_guests()) == before, "descriptors, mappings"


@pytest.fixture
def driver(_nothing_leaks: None) -> Iterator[Driver]:
    driver = Driver(16)
    yield driver
    driver.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def front(_nothing_leaks: None, echo: Echo) -> Iterator[FrontEnd]:
    front = FrontEnd(echo)
    yield front
    front.close()
