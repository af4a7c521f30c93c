"""The tools in a guest, smaller, and what it sees of several file systems of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suites.conftest import run
from tests.suites.guest import JOBS
from tests.support.inside import VOLUME, run_inside

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    "engine",
    [pytest.param("uml", marks=pytest.mark.uml), pytest.param("qemu", marks=[pytest.mark.qemu, pytest.mark.full])],
)
def test_tools(engine: str, top: Path) -> None:
    told = dict(run_inside(engine, top / "source", f"tests.suites.guest.main({VOLUME!r})", timeout=900))
    assert list(told) == list(JOBS)
    assert {name: wrong for name, wrong in told.items() if wrong and wrong != "missing"} == {}
    missing = [name for name, wrong in told.items() if wrong]
    if missing:
        pytest.skip(f"the rest passed; not on PATH: {' '.join(missing)}")


def test_submounts(engine: str, top: Path) -> None:
    """What is mounted below the shared folder is a mount in the guest too, with a device number of its own."""
    below = top / "source/below"
    below.mkdir()
    run(["mount", "-t", "tmpfs", "none", below], top)
    try:
        (below / "there").touch()
        (told,) = run_inside(engine, top / "source", f"tests.suites.guest.submount({VOLUME!r})", timeout=300)
        assert told == {
            "names": ["there"],
            "mounted": True,
            "one device": False,
            "crossing": "Invalid cross-device link",
        }
        assert (below / "written").read_text() == "inside"
    finally:
        run(["umount", "-l", below], top)
