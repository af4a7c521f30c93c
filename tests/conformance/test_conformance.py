"""`pykrun mount` behaves as the file system below it: every call of the POSIX file-system suites, by several users.

The host's own file system is the authority: each scenario happens there and over the mount, and has to leave the same
trace. What Linux' FUSE makes differ is not among the scenarios, and is said where it was left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conformance.conftest import Place
from tests.conformance.run import trace_of
from tests.conformance.table import Row, all_rows
from tests.conformance.world import Company

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here"),
]

ROWS = [pytest.param(row, id=row.name, marks=[pytest.mark.full] if row.full else []) for row in all_rows()]


@pytest.mark.parametrize("row", ROWS)
def test_over_pykrun_mount(place: Place, over_mount: Path, company: Company, row: Row) -> None:
    expected = trace_of(row, company, str(place.host), place.elsewhere)
    assert expected
    assert not expected[-1].startswith("raised"), expected[-1]
    assert trace_of(row, company, str(over_mount), place.elsewhere) == expected
