"""The scenarios in a guest, on a volume: some under User Mode Linux, all there and some under QEMU with --full.

The guest's kernel is another one than the host's. What differs for that is named.
"""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Place
from tests.conformance.run import chosen, trace_of
from tests.conformance.world import Company
from tests.support.inside import VOLUME, run_inside

pytestmark = pytest.mark.root

SOME = 16
SECONDS = 1200

OLD_KERNEL = {
    "makers_of_file": "before Linux 6.3 FUSE does not tell the caller's further groups: no set-group-ID there",
    "makers_of_fifo": "the same",
    "makers_of_node": "the same",
}

Traces = dict[str, list[str]]


def compare(place: Place, company: Company, engine: str, step: int, full: bool) -> None:
    """Run in the guest first, then here."""
    call = f"tests.conformance.run.main({VOLUME!r}, '/dev/shm', {step}, {full})"
    found: Traces = dict(run_inside(engine, place.shared, call, timeout=SECONDS))
    rows = [row for row in chosen(step, full) if row.name not in OLD_KERNEL]
    assert set(found) >= {row.name for row in rows}
    different = [
        row.name for row in rows if trace_of(row, company, str(place.host), place.elsewhere) != found[row.name]
    ]
    assert different == []


@pytest.fixture
def fresh(place: Place) -> Place:
    """Nothing is left of another engine's."""
    import shutil

    for folder in (place.host, place.shared):
        for entry in folder.iterdir():
            shutil.rmtree(entry)
    return place


@pytest.mark.uml
@pytest.mark.parametrize("step", [SOME, pytest.param(1, marks=pytest.mark.full)])
def test_in_user_mode_linux(fresh: Place, company: Company, step: int) -> None:
    compare(fresh, company, "uml", step, False)


@pytest.mark.qemu
@pytest.mark.full
def test_in_qemu(fresh: Place, company: Company) -> None:
    compare(fresh, company, "qemu", 8, False)
