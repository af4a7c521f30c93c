"""The table of cases, on plain bytes and over a real kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pykrun.fs.passthrough import PassthroughFs
from tests.fs import cases
from tests.fs.cases import Case, World
from tests.fs.memory import MemoryFs
from tests.fuse.guest import Guest
from tests.fuse.mounts import mounted
from tests.fuse.views import BytesView, MountView

KINDS = pytest.mark.parametrize("kind", cases.KINDS)
TABLE = pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")


@pytest.fixture
def world(kind: str, tmp_path: Path) -> World:
    folder = tmp_path / "folder"
    folder.mkdir()
    return World(kind, folder)


@TABLE
@KINDS
def test_on_plain_bytes(case: Case, world: World) -> None:
    guest = Guest(world.fs)
    case(BytesView(guest), world)
    assert guest.server.faults == 0
    guest.server.reset()
    if isinstance(world.inner, MemoryFs):
        assert (world.inner.lookups, world.inner.handles) == ({}, set())
    elif isinstance(world.inner, PassthroughFs):
        assert (len(world.inner._inodes), world.inner._open_files) == (1, 0)
    world.fs.close()


@needs_fuse
@pytest.mark.root
@TABLE
@KINDS
def test_over_a_mount(case: Case, world: World, tmp_path: Path) -> None:
    target = tmp_path / "mount"
    target.mkdir()
    with mounted(world.fs, target, lambda: world.fs.exit_code) as outcome:
        case(MountView(target), world)
    if case.__name__ == "exit_codes":
        assert outcome.extra == 7
    assert os.listdir(target) == []
    world.fs.close()
