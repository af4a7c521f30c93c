"""The fence: works, and cannot be left in a state in which it would wait."""

from __future__ import annotations

import _thread

import pytest

from pykrun.errors import MissingError
from pykrun.host import fence


def test_fences_are_independent_and_never_wait() -> None:
    one, other = fence.new_fence(), fence.new_fence()
    for _ in range(1000):
        one()
        other()


def test_a_fence_that_was_interrupted_half_way_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    locks: list[_thread.LockType] = []

    def allocate() -> _thread.LockType:
        locks.append(_thread.allocate_lock())
        return locks[-1]

    monkeypatch.setattr(fence, "allocate_lock", allocate)
    call = fence._locked_operation()
    locks[0].acquire()  # as after a KeyboardInterrupt between the two steps
    call()
    assert not locks[0].locked()
    call()


def test_the_fence_of_weakly_ordered_processors() -> None:
    try:
        call = fence._libatomic_fence()
    except MissingError as error:
        pytest.skip(str(error))
    call()
