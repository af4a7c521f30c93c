"""The table of POSIX cases in a guest, on a volume, with one boot per engine: some of them, and all with --full.

Under QEMU without KVM a case takes ten times as long as under User Mode Linux.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.posix.inside import USERS, cases_of, name_of
from tests.support.inside import VOLUME, run_inside

pytestmark = pytest.mark.root

SOME = {"uml": 4, "qemu": 16}
"""Every so-manieth case without --full."""
SECONDS = 900


def rows(step: int) -> list[str]:
    return [name_of(case, uid) for uid in USERS for case in cases_of(uid, step)]


def marked(engine: str) -> list[object]:
    some = set(rows(SOME[engine]))
    return [pytest.param(name, marks=[] if name in some else [pytest.mark.full]) for name in rows(1)]


def results(engine: str, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    step = 1 if request.config.getoption("--full") else SOME[engine]
    with tempfile.TemporaryDirectory(
        prefix="pykrun-posix", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as top:
        Path(top).chmod(0o755)
        found = run_inside(engine, Path(top), f"tests.posix.inside.main({VOLUME!r}, {step})", timeout=SECONDS)
        yield {line["case"]: line["wrong"] for line in found}


@pytest.fixture(scope="module")
def in_uml(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    yield from results("uml", request)


@pytest.fixture(scope="module")
def in_qemu(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    yield from results("qemu", request)


def check(found: dict[str, str], name: str) -> None:
    if name == "attributes_of_root-root":
        pytest.skip("trusted.* takes CAP_SYS_ADMIN, which no sandbox leaves (docs/fs-daemon.md)")
    assert name in found, "the guest did not come to this case"
    assert not found[name], found[name]


@pytest.mark.uml
@pytest.mark.parametrize("name", marked("uml"))
def test_in_user_mode_linux(in_uml: dict[str, str], name: str) -> None:
    check(in_uml, name)


@pytest.mark.qemu
@pytest.mark.parametrize("name", marked("qemu"))
def test_in_qemu(in_qemu: dict[str, str], name: str) -> None:
    check(in_qemu, name)
