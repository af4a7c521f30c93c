"""The pictures of the performance page are those of the values that lie beside them."""

from __future__ import annotations

import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.house.sources import ROOT

PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def plots() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("plots", ROOT / "scripts" / "plots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_pictures_are_drawn_from_the_records(plots: ModuleType, tmp_path: Path) -> None:
    drawn = plots.draw_all(tmp_path, plots.load())
    assert {path.name for path in drawn} == {path.name for path in PICTURES.glob("plot-*.svg")}
    stale = [path.name for path in drawn if path.read_bytes() != (PICTURES / path.name).read_bytes()]
    assert stale == [], "python3 scripts/plots.py draws them again"


def test_pictures_say_when_and_where(plots: ModuleType) -> None:
    records = plots.load()
    assert records
    for record in records:
        assert record["date"] > "2026"
        assert record["machine"].keys() >= {"cpu", "cpus", "kernel", "python", "load"}


@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_whole_and_loads_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in text


def test_values_far_away_do_not_hide_the_rest(plots: ModuleType) -> None:
    series = [{"name": "a", "values": [1.0, 1.1, 90.0], "median": 1.1, "part": False}]
    table = {"title": "t", "unit": "ms", "peer": None, "series": series}
    machine = {"cpu": "c", "cpus": 2, "kernel": "6.1-x", "python": "3.11", "load": 0.2}
    drawn = plots.draw(plots.Plot("p", "t", "b", "t"), table, {"date": "2026-11-26", "machine": machine})
    assert drawn.count("<circle") == 2
    assert 'width="152.0"' in drawn
