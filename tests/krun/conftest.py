"""Contexts for the tests of the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pykrun.krun import krun_create_ctx, krun_free_ctx


@pytest.fixture
def ctx() -> Iterator[int]:
    """A context of the test's own. It may have been freed when the test ends."""
    made = krun_create_ctx()
    assert made >= 0
    yield made
    krun_free_ctx(made)


@pytest.fixture(scope="module")
def shared_ctx() -> Iterator[int]:
    """A context for calls that fail, and so leave it as it is."""
    made = krun_create_ctx()
    assert made >= 0
    yield made
    assert krun_free_ctx(made) == 0
