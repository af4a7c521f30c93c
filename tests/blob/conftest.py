"""Blobs of our own making: packages of a few lines, built by the real last stage from the real archive."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykrun import blob
from pykrun.blob import archive, image, lookup
from pykrun.blob.toolchain import Musl, find_musl

Maker = Callable[..., Path]


@pytest.fixture(scope="session")
def musl() -> Musl:
    found = find_musl()
    if found is None:
        pytest.skip("no static musl toolchain (apt-get install musl-tools gcc make dpkg-dev linux-libc-dev)")
    return found


@pytest.fixture(scope="session")
def core(musl: Musl, tmp_path_factory: pytest.TempPathFactory) -> archive.Archive:
    """CPython's archive, from the cache as a rule."""
    return archive.provide(musl, tmp_path_factory.mktemp("log") / "log", lambda line: None)


@pytest.fixture(scope="session")
def real_blob() -> blob.Blob:
    """The blob that `pykrun run` uses."""
    return blob.build()


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("blobs")
    yield folder
    shutil.rmtree(folder)


def write_package(folder: Path, modules: dict[str, str]) -> Path:
    """A package krun_init with the real native seam and these modules; a slash in a name is a package inside."""
    package = folder / "krun_init"
    package.mkdir(parents=True)
    for source in lookup.GUEST_FOLDER.glob("*.[ch]"):
        shutil.copy(source, package)
    for name, text in {"__init__": "", **modules}.items():
        file = package / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return package


@pytest.fixture(scope="session")
def make(core: archive.Archive, musl: Musl, made_folder: Path) -> Maker:
    """`make(main="source", other="source")` builds a snapshot; the same sources are built once. Words in front of them
    are a start that is to be quick."""
    built: dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], Path] = {}

    def make_one(*start: str, **modules: str) -> Path:
        key = (start, tuple(sorted(modules.items())))
        if key not in built:
            folder = made_folder / str(len(list(made_folder.iterdir())))
            package = write_package(folder, modules)
            stage = folder / "stage"
            stage.mkdir()
            built[key] = image.make_snapshot(package, core, musl, stage, folder / "log", start=start)
        return built[key]

    return make_one
