"""The world of virtual entries, for the tests that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fs.virtual_world import World


@pytest.fixture(params=[False, True], ids=["over nothing", "over a real tree"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(real=request.param)
    yield made
    made.guest.server.reset()
    assert made.guest.server.faults == 0
    if made.inner is not None:
        assert made.inner.lookups == {}
        assert made.inner.handles == set()
