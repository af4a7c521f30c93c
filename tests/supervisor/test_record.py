"""`record` behaves as `dataclass` does, for what is used of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from pykrun import record as ours


def shapes(make: Any, field: Any) -> list[Any]:
    @make(frozen=True, slots=True)
    class Point:
        """Documented."""

        x: int
        y: int = 2

        def sum(self) -> int:
            return self.x + self.y

    @make(slots=True, kw_only=True)
    class Bag:
        name: str
        items: list[int] = field(default_factory=list)

        @property
        def size(self) -> int:
            return len(self.items)

    @make(frozen=True)
    class Open:
        value: int

        @functools.cached_property
        def twice(self) -> int:
            return self.value * 2

    return [Point, Bag, Open]


@pytest.fixture(params=["ours", "theirs"])
def classes(request: pytest.FixtureRequest) -> list[Any]:
    if request.param == "ours":
        return shapes(ours.record, ours.field)
    return shapes(dataclasses.dataclass, dataclasses.field)


def test_making_and_comparing(classes: list[Any]) -> None:
    point, bag, _ = classes
    assert point(1).sum() == 3
    assert point(1, y=3) == point(x=1, y=3) != point(1)
    assert hash(point(1)) == hash(point(1, 2))
    assert repr(point(1)).endswith("Point(x=1, y=2)")
    assert point.__doc__ == "Documented."
    assert bag(name="a") != point(1)
    first, second = bag(name="a"), bag(name="a")
    first.items.append(1)
    assert (first.size, second.size) == (1, 0)
    first.name = "b"
    assert first.name == "b"
    assert not hasattr(first, "__dict__")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda point, bag: point(),
        lambda point, bag: point(1, 2, 3),
        lambda point, bag: point(1, x=1),
        lambda point, bag: point(1, z=1),
        lambda point, bag: bag("a"),
        lambda point, bag: hash(bag(name="a")),
    ],
)
def test_what_is_refused(classes: list[Any], wrong: Callable[[Any, Any], object]) -> None:
    with pytest.raises(TypeError):
        wrong(*classes[:2])


def test_frozen_and_slots(classes: list[Any]) -> None:
    point, bag, _ = classes
    with pytest.raises(AttributeError):
        point(1).x = 2
    with pytest.raises(AttributeError):
        del point(1).x
    with pytest.raises(AttributeError):
        bag(name="a").other = 1


def test_without_slots(classes: list[Any]) -> None:
    made = classes[2](4)
    assert (made.twice, made.twice) == (8, 8)
    with pytest.raises(AttributeError):
        made.value = 1


def test_replace() -> None:
    point = shapes(ours.record, ours.field)[0]
    assert ours.replace(point(1), y=5) == point(1, 5)
