"""What VMs of programs in C start from; as for those in Python."""

from __future__ import annotations

import pytest

from tests.krun.conftest import shell_root as shell_root


@pytest.fixture(
    params=[
        pytest.param("uml", marks=pytest.mark.uml),
        pytest.param("qemu", marks=[pytest.mark.qemu, pytest.mark.full]),
    ]
)
def engine_once(request: pytest.FixtureRequest) -> str:
    """For what no engine changes: on the slow one only in the long run."""
    name: str = request.param
    return name
