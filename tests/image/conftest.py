"""A cache of images of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun.image import Image, open_image
from tests.image import make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `images` of a cache that nobody else has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pykrun/images"


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Image]:
    """Unpack an image of those layers, with its layout in a folder of its own."""
    count = iter(range(1000))

    def one(*layers: bytes) -> Image:
        return open_image(f"oci:{make.image(tmp_path / f'image{next(count)}', *layers, how='')}", arch="x86_64")

    return one
