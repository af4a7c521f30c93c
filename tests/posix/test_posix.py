"""The table of POSIX cases: over a host's folder served on plain bytes, over real mounts, and without any server.

Who asks and who serves: root or nobody, in all combinations. An ordinary user's server makes everything its own, so
there the caller is that user.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykrun.fs import AugmentFs, FileSystem, InodeAllocator
from pykrun.fs.passthrough import Options, PassthroughFs
from tests.cli.servers import Running
from tests.fuse.guest import Guest
from tests.fuse.mounts import mounted_in_child
from tests.posix.native import NativeView
from tests.posix.table import Case, all_cases
from tests.posix.wire import WireView
from tests.support.command import Pykrun
from tests.support.processes import NOBODY, as_nobody

CASES = all_cases()
USERS = {0: "root", NOBODY: "nobody"}


def table(*, kernel: bool, users: Sequence[int] = tuple(USERS)) -> pytest.MarkDecorator:
    """Each case with each user that can run it."""
    rows = [
        pytest.param(case, uid, id=f"{case.name}-{USERS[uid]}")
        for uid in users
        for case in CASES
        if (uid == 0 or not case.root) and (kernel or not case.kernel)
    ]
    return pytest.mark.parametrize(("case", "uid"), rows)


needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """In memory, where three thousand folders cost nothing; with --full on the machine's disk."""
    place = "/var/tmp" if request.config.getoption("--full") or not os.path.isdir("/dev/shm") else "/dev/shm"
    folder = Path(tempfile.mkdtemp(prefix="pykrun-posix", dir=place))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def prepared(home: Path, case: Case, owner: int, kind: str) -> Path:
    folder = home / f"{kind}-{case.name}"
    folder.mkdir()
    os.chown(folder, owner, owner)
    return folder


def run_as(uid: int, case: Case, folder: bytes) -> None:
    """Run a case with the kernel's help: as root here, as nobody in a child."""

    def run() -> None:
        view = NativeView(folder)
        case.run(view)
        assert view.files == set(), "the case leaves files open"

    old = os.umask(0)
    try:
        if uid == 0:
            run()
        else:
            as_nobody(run)
    finally:
        os.umask(old)


@pytest.mark.full
@table(kernel=True)
def test_the_host_itself(home: Path, case: Case, uid: int) -> None:
    """The cases are right: Linux passes them without us."""
    folder = prepared(home, case, uid, f"host{uid}")
    run_as(uid, case, os.fsencode(folder))


@table(kernel=False)
@pytest.mark.parametrize("layers", ["alone", pytest.param("augmented", marks=pytest.mark.full)])
def test_on_plain_bytes(home: Path, case: Case, uid: int, layers: str) -> None:
    folder = prepared(home, case, uid, f"bytes{uid}{layers}")
    allocator = InodeAllocator()
    inner = PassthroughFs(str(folder), allocator, descriptors=400)
    filesystem: FileSystem = inner
    if layers == "augmented":
        filesystem = AugmentFs(inner, allocator)
    guest = Guest(filesystem, max_inodes=5000)
    old = os.umask(0o022)
    try:
        view = WireView(guest, 1, uid, uid)
        case.run(view)
        assert os.umask(0o022) == 0o022
        view.forget_all()
        assert set(guest.server._session.inodes) == {1}
        assert len(inner._inodes) == 1
        assert inner._open_files == 0
    finally:
        os.umask(old)
        guest.server.reset()
        filesystem.close()
    assert guest.server.faults == 0


@pytest.fixture(scope="module")
def auto_mount(home: Path) -> Iterator[tuple[Path, Path]]:
    yield from serve(home, "auto", False)


@pytest.fixture(scope="module", params=["always", "never"])
def root_mount(request: pytest.FixtureRequest, home: Path) -> Iterator[tuple[Path, Path]]:
    yield from serve(home, request.param, False)


@pytest.fixture(scope="module")
def nobody_mount(home: Path) -> Iterator[tuple[Path, Path]]:
    yield from serve(home, "auto", True)


def serve(home: Path, cache: str, nobody: bool) -> Iterator[tuple[Path, Path]]:
    """Serve a folder for the whole module; yields the folder and where it is mounted."""
    name = f"{cache}{'-nobody' if nobody else ''}"
    source, target = home / f"source-{name}", home / f"mount-{name}"
    source.mkdir(mode=0o755)
    target.mkdir(mode=0o755)

    def make() -> FileSystem:
        return PassthroughFs(str(source), InodeAllocator(), Options(cache=cache))

    with ExitStack() as stack:
        outcome = stack.enter_context(mounted_in_child(make, target, nobody=nobody))
        yield source, target
    assert outcome.faults == 0


@needs_fuse
@table(kernel=True)
def test_over_a_mount(auto_mount: tuple[Path, Path], case: Case, uid: int) -> None:
    source, target = auto_mount
    folder = prepared(source, case, uid, f"u{uid}")
    run_as(uid, case, os.fsencode(target / folder.name))


@needs_fuse
@pytest.mark.full
@table(kernel=True)
def test_over_a_mount_with_other_caches(root_mount: tuple[Path, Path], case: Case, uid: int) -> None:
    source, target = root_mount
    folder = prepared(source, case, uid, f"c{uid}")
    run_as(uid, case, os.fsencode(target / folder.name))


@pytest.fixture(scope="module")
def command_mount(home: Path) -> Iterator[tuple[Path, Path]]:
    """By the command, in its sandbox."""
    source, target = home / "source-command", home / "mount-command"
    for folder in (source, target):
        folder.mkdir(mode=0o755)
    pykrun = Pykrun()
    words = ["mount", str(target), "--shared-dir", str(source), "--sandbox", "require"]
    try:
        with Running(pykrun, words) as running:
            running.wait_for("mounted on")
            yield source, target
            assert running.end(signal.SIGTERM) == 0
        assert running.said.count("\n") == 1, "no fault was reported"
    finally:
        assert pykrun.close() == []


@needs_fuse
@table(kernel=True)
def test_over_pykrun_mount(command_mount: tuple[Path, Path], case: Case, uid: int) -> None:
    """A system call that the sandbox forbids would show here."""
    if case.name == "attributes_of_root":
        pytest.skip("trusted.* takes CAP_SYS_ADMIN, which no sandbox leaves (docs/fs-daemon.md)")
    source, target = command_mount
    folder = prepared(source, case, uid, f"p{uid}")
    run_as(uid, case, os.fsencode(target / folder.name))


@needs_fuse
@table(kernel=True, users=[NOBODY])
def test_over_a_mount_by_an_ordinary_user(nobody_mount: tuple[Path, Path], case: Case, uid: int) -> None:
    source, target = nobody_mount
    folder = prepared(source, case, uid, "n")
    run_as(uid, case, os.fsencode(target / folder.name))
