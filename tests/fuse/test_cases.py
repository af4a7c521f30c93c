"""The table of cases, on plain bytes and over a real kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fs.cases import CASES, Case, World
from tests.fuse.guest import Guest
from tests.fuse.mounts import mounted
from tests.fuse.views import BytesView, MountView

KINDS = pytest.mark.parametrize("real", [False, True], ids=["nothing", "tree"])
TABLE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")


@TABLE
@KINDS
def test_on_plain_bytes(case: Case, real: bool) -> None:
    world = World(real=real)
    guest = Guest(world.fs)
    case(BytesView(guest), world)
    assert guest.server.faults == 0
    guest.server.reset()
    if world.inner is not None:
        assert (world.inner.lookups, world.inner.handles) == ({}, set())


@needs_fuse
@pytest.mark.root
@TABLE
@KINDS
def test_over_a_mount(case: Case, real: bool, tmp_path: Path) -> None:
    world = World(real=real)
    with mounted(world.fs, tmp_path, lambda: world.fs.exit_code) as outcome:
        case(MountView(tmp_path), world)
    if case.__name__ == "exit_codes":
        assert outcome.extra == 7
    assert os.listdir(tmp_path) == []
