"""Virtual entries over a folder of the host, in its subdirectories too: a virtual directory over a real one is the real
one, with names added.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.fs import AugmentFs, InodeAllocator
from pykrun.fs.passthrough import Options, PassthroughFs
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, io_in
from tests.fuse.mounts import mounted

VIRTUAL = 0x7F00_0000_0000_0000


class World:
    def __init__(self, folder: Path, cache: str = "auto") -> None:
        self.folder = folder
        for name in ("etc/conf.d", "usr/lib/deep/er", "var"):
            (folder / name).mkdir(parents=True)
        for name in ("etc/passwd", "etc/hosts", "etc/conf.d/real", "usr/lib/libc", "usr/lib/deep/er/leaf", "bin"):
            (folder / name).write_text(f"real {name}")
        os.symlink("usr/lib", folder / "lib")
        allocator = InodeAllocator()
        self.inner = PassthroughFs(str(folder), allocator, Options(cache=cache), descriptors=300)
        self.fs = fs = AugmentFs(self.inner, allocator)
        fs.add_directory(b"/etc", mode=0o700)
        fs.add_file(b"/etc/hosts", b"virtual hosts")
        fs.add_file(b"/etc/extra", b"extra", mode=0o400)
        fs.add_file(b"/etc/secret", b"secret", one_shot=True)
        fs.make_parents(b"/usr/lib/deep/er/added")
        fs.add_file(b"/usr/lib/deep/er/added", b"added")
        fs.add_directory(b"/usr/lib/deep/new")
        fs.add_file(b"/usr/lib/deep/new/inside", b"inside")
        fs.add_directory(b"/bin")
        fs.add_file(b"/bin/sh", b"shell", mode=0o755)
        fs.add_file(b"/lib", b"a file over a link")
        fs.add_directory(b"/gone")

    def state(self) -> list[object]:
        """What the real tree is."""
        return [
            (place, sorted(names), sorted((name, Path(place, name).read_bytes()) for name in files if name != "lib"))
            for place, names, files in os.walk(self.folder)
        ]


@pytest.fixture(params=["auto", "never"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "folder"
    folder.mkdir()
    made = World(folder, request.param)
    yield made
    made.fs.close()


@pytest.fixture
def guest(world: World) -> Iterator[Guest]:
    made = Guest(world.fs)
    yield made
    assert made.server.faults == 0
    made.server.reset()
    assert len(world.inner._inodes) == 1
    assert world.inner._open_files == 0


DEEP = b"/usr/lib/deep/er"


def names(guest: Guest, path: bytes, *, plus: bool = False, size: int = 4096) -> list[bytes]:
    node = guest.walk(path).nodeid if path != b"/" else 1
    listed = [entry.name for entry in guest.listing(node, plus=plus, size=size)]
    assert listed.count(b".") == listed.count(b"..") == 1
    return sorted(name for name in listed if name not in (b".", b".."))


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [200, 4096])
def test_listings_show_both(guest: Guest, plus: bool, size: int) -> None:
    expected = {
        b"/": [b"bin", b"etc", b"gone", b"lib", b"usr", b"var"],
        b"/etc": [b"conf.d", b"extra", b"hosts", b"passwd"],
        b"/etc/conf.d": [b"real"],
        b"/usr/lib": [b"deep", b"libc"],
        b"/usr/lib/deep": [b"er", b"new"],
        DEEP: [b"added", b"leaf"],
        b"/usr/lib/deep/new": [b"inside"],
        b"/bin": [b"sh"],
        b"/gone": [],
    }
    for path, found in expected.items():
        assert names(guest, path, plus=plus, size=size) == found, path


def test_what_is_read(guest: Guest) -> None:
    for path, content in (
        (b"/etc/passwd", b"real etc/passwd"),
        (b"/etc/hosts", b"virtual hosts"),
        (b"/etc/conf.d/real", b"real etc/conf.d/real"),
        (DEEP + b"/leaf", b"real usr/lib/deep/er/leaf"),
        (DEEP + b"/added", b"added"),
        (b"/usr/lib/deep/new/inside", b"inside"),
        (b"/bin/sh", b"shell"),
        (b"/lib", b"a file over a link"),
        (b"/etc/secret", b"secret"),
    ):
        assert guest.content(path) == content
    assert guest.lookup_error(guest.walk(b"/etc").nodeid, b"secret") == errno.ENOENT


def test_a_merged_directory_has_the_real_ones_attributes(world: World, guest: Guest) -> None:
    for path in (b"/etc", b"/usr", b"/usr/lib/deep", DEEP):
        found = guest.walk(path).attr
        real = (world.folder / path.decode()[1:]).stat()
        assert (found.ino, found.mode, found.nlink) == (real.st_ino, real.st_mode, real.st_nlink)
    for path in (b"/bin", b"/gone", b"/usr/lib/deep/new", DEEP + b"/added", b"/etc/hosts"):
        assert guest.walk(path).attr.ino >= VIRTUAL


def test_dots(world: World, guest: Guest) -> None:
    def dots(path: bytes) -> list[int]:
        node = guest.walk(path).nodeid if path != b"/" else 1
        found = {entry.name: entry.ino for entry in guest.listing(node)}
        return [found[b"."], found[b".."]]

    def number(path: str) -> int:
        return (world.folder / path).stat().st_ino

    assert dots(b"/") == [number("."), number(".")]
    assert dots(b"/etc") == [number("etc"), number(".")]
    assert dots(DEEP) == [number("usr/lib/deep/er"), number("usr/lib/deep")]
    assert dots(b"/usr/lib/deep/new") == [guest.walk(b"/usr/lib/deep/new").attr.ino, number("usr/lib/deep")]


def rename(guest: Guest, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> int:
    body = struct.pack("<QII", new_parent, flags, 0) + name + b"\0" + new_name + b"\0"
    return guest.call(fuse.RENAME2, parent, body).error


def make(guest: Guest, parent: int, name: bytes) -> dict[str, int]:
    source = guest.walk(b"/var").nodeid
    guest.call(fuse.MKNOD, source, struct.pack("<IIII", 0o100644, 0, 0, 0) + b"source\0")
    file = guest.lookup(source, b"source").nodeid
    create = struct.pack("<IIII", os.O_RDWR | os.O_CREAT, 0o100644, 0, 0)
    results = {
        "create": guest.call(fuse.CREATE, parent, create + name + b"\0"),
        "mkdir": guest.call(fuse.MKDIR, parent, struct.pack("<II", 0o755, 0) + name + b"\0"),
        "mknod": guest.call(fuse.MKNOD, parent, struct.pack("<IIII", 0o100644, 0, 0, 0) + name + b"\0"),
        "symlink": guest.call(fuse.SYMLINK, parent, name + b"\0target\0"),
        "link": guest.call(fuse.LINK, parent, struct.pack("<Q", file) + name + b"\0"),
    }
    guest.call(fuse.UNLINK, source, b"source\0")
    return {step: reply.error for step, reply in results.items()}


@pytest.mark.parametrize(
    ("folder", "name", "error"),
    [
        (b"/etc", b"hosts", errno.EEXIST),
        (b"/etc", b"extra", errno.EEXIST),
        (b"/", b"etc", errno.EEXIST),
        (b"/", b"bin", errno.EEXIST),
        (b"/", b"lib", errno.EEXIST),
        (DEEP, b"added", errno.EEXIST),
        (b"/usr/lib/deep", b"new", errno.EEXIST),
        (b"/bin", b"anything", errno.EPERM),
        (b"/gone", b"anything", errno.EPERM),
        (b"/usr/lib/deep/new", b"anything", errno.EPERM),
    ],
)
def test_making(world: World, guest: Guest, folder: bytes, name: bytes, error: int) -> None:
    before = world.state()
    parent = guest.walk(folder).nodeid if folder != b"/" else 1
    assert set(make(guest, parent, name).values()) == {error}
    assert world.state() == before


@pytest.mark.parametrize("name", [b"hosts", b"extra", b"secret"])
def test_removing_and_renaming_virtual_names(world: World, guest: Guest, name: bytes) -> None:
    before = world.state()
    etc, var = guest.walk(b"/etc").nodeid, guest.walk(b"/var").nodeid
    assert guest.call(fuse.UNLINK, etc, name + b"\0").error == errno.EPERM
    assert guest.call(fuse.RMDIR, etc, name + b"\0").error == errno.EPERM
    for flags in (0, 1, 2, 4):
        assert rename(guest, etc, name, var, b"away", flags) == errno.EPERM
        assert rename(guest, etc, b"passwd", etc, name, flags) == errno.EPERM
    assert world.state() == before


@pytest.mark.parametrize(("folder", "name"), [(b"/", b"etc"), (b"/", b"usr"), (b"/usr/lib", b"deep"), (b"/", b"gone")])
def test_removing_and_renaming_directories(world: World, guest: Guest, folder: bytes, name: bytes) -> None:
    before = world.state()
    parent, var = guest.walk(folder).nodeid if folder != b"/" else 1, guest.walk(b"/var").nodeid
    assert guest.call(fuse.RMDIR, parent, name + b"\0").error == errno.EPERM
    assert guest.call(fuse.UNLINK, parent, name + b"\0").error == errno.EPERM
    for flags in (0, 2):
        assert rename(guest, parent, name, var, b"away", flags) == errno.EPERM
        assert rename(guest, 1, b"var", parent, name, flags) == errno.EPERM
    for target in (b"/bin", b"/gone", b"/usr/lib/deep/new"):
        assert rename(guest, 1, b"var", guest.walk(target).nodeid, b"var") == errno.EPERM
    assert world.state() == before


def test_a_spent_name_is_not_to_be_had(world: World, guest: Guest) -> None:
    (world.folder / "etc/secret").write_bytes(b"a real one below")
    etc = guest.walk(b"/etc").nodeid
    assert guest.content(b"/etc/secret") == b"secret"
    assert guest.lookup_error(etc, b"secret") == errno.ENOENT
    assert b"secret" not in names(guest, b"/etc")
    assert set(make(guest, etc, b"secret").values()) == {errno.EPERM}
    assert guest.call(fuse.UNLINK, etc, b"secret\0").error == errno.EPERM
    assert rename(guest, etc, b"passwd", etc, b"secret") == errno.EPERM
    assert (world.folder / "etc/secret").read_bytes() == b"a real one below"


@pytest.mark.parametrize("path", [b"/etc", DEEP, b"/usr/lib/deep"])
def test_a_merged_directory_is_a_real_one(world: World, guest: Guest, path: bytes) -> None:
    node = guest.walk(path).nodeid
    real = world.folder / path.decode()[1:]
    assert list(make(guest, node, b"made").values()) == [0] + [errno.EEXIST] * 4
    assert (real / "made").is_file()
    assert b"made" in names(guest, path)
    assert rename(guest, node, b"made", 1, b"moved") == 0
    assert rename(guest, 1, b"moved", node, b"back") == 0
    assert (real / "back").is_file()
    setattr_ = struct.pack("<IIQQQQQQIIIIIIII", 1, 0, *(0,) * 9, 0o711, 0, 0, 0, 0)
    assert guest.call(fuse.SETATTR, node, setattr_).error == 0
    assert stat.S_IMODE(real.stat().st_mode) == 0o711
    assert guest.call(fuse.SETXATTR, node, struct.pack("<II", 1, 0) + b"user.x\0v").error == 0
    assert os.getxattr(real, "user.x") == b"v"
    assert guest.call(fuse.UNLINK, node, b"back\0").error == 0
    nameless = guest.call(fuse.TMPFILE, node, struct.pack("<IIII", os.O_RDWR, 0o100600, 0, 0) + b"/\0")
    assert nameless.error == 0


def test_virtual_files_take_no_changes(guest: Guest) -> None:
    node = guest.walk(DEEP + b"/added").nodeid
    fh = guest.open(node)
    other = guest.walk(DEEP + b"/leaf").nodeid
    real = guest.open(other, os.O_RDWR)
    assert guest.write(node, fh, 0, b"x").error == errno.EPERM
    for opcode, body in (
        (fuse.SETATTR, struct.pack("<IIQQQQQQIIIIIIII", 1, 0, *(0,) * 9, 0o777, 0, 0, 0, 0)),
        (fuse.SETXATTR, struct.pack("<II", 1, 0) + b"user.x\0v"),
        (fuse.REMOVEXATTR, b"user.x\0"),
        (fuse.FALLOCATE, struct.pack("<QQQII", fh, 0, 10, 0, 0)),
    ):
        assert guest.call(opcode, node, body).error == errno.EPERM
    for source, target in (((node, fh), (other, real)), ((other, real), (node, fh))):
        body = struct.pack("<7Q", source[1], 0, *target, 0, 10, 0)
        assert guest.call(fuse.COPY_FILE_RANGE, source[0], body).error == errno.EXDEV
    assert guest.call(fuse.LINK, guest.walk(b"/var").nodeid, struct.pack("<Q", node) + b"x\0").error == errno.EPERM
    assert guest.call(fuse.OPEN, node, struct.pack("<II", os.O_RDWR, 0)).error == errno.EACCES


def test_the_host_changes_what_lies_below(world: World, guest: Guest) -> None:
    deep = guest.walk(b"/usr/lib/deep").nodeid
    shutil.rmtree(world.folder / "usr/lib/deep")
    assert names(guest, b"/usr/lib/deep") == [b"er", b"new"]
    assert guest.walk(b"/usr/lib/deep").attr.ino >= VIRTUAL
    assert guest.content(DEEP + b"/added") == b"added"
    (world.folder / "usr/lib/deep/er").mkdir(parents=True)
    (world.folder / "usr/lib/deep/er/late").write_bytes(b"late")
    assert names(guest, DEEP) == [b"added", b"late"]
    assert guest.walk(b"/usr/lib/deep").nodeid != deep
    shutil.rmtree(world.folder / "usr")
    os.symlink("/etc", world.folder / "usr")
    assert guest.content(DEEP + b"/added") == b"added"
    assert names(guest, b"/usr") == [b"lib"], "a link on the host is hidden, and not followed"


def test_look_ups_are_counted_inward_once(world: World, guest: Guest) -> None:
    for plus in (False, True):
        for path in (b"/", b"/etc", b"/usr/lib", b"/usr/lib/deep", DEEP):
            names(guest, path, plus=plus, size=300)
    inner, known = world.inner._inodes, guest.server._session.inodes
    counts = {number: inode.lookups for number, inode in inner.by_number.items() if number != 1}
    assert counts == {number: known[number] for number in counts}
    guest.batch_forget(*counts.items())
    assert len(inner) == 1


def test_reading_a_directory_that_is_virtual_only(guest: Guest) -> None:
    node = guest.walk(b"/gone").nodeid
    handle = guest.opendir(node)
    body = guest.good(fuse.READDIR, node, io_in(handle, 0, 4096))
    assert [entry.name for entry in fuse.dirents(body, plus=False)] == [b".", b".."]


needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_fuse
@pytest.mark.root
def test_programs(world: World, tmp_path: Path) -> None:
    target, copy = tmp_path / "target", tmp_path / "copy"
    target.mkdir()
    with mounted(world.fs, target):
        listed = run("find", target, "-printf", "%P %y\\n").splitlines()
        assert {"etc/hosts f", "etc/passwd f", "usr/lib/deep/er/added f", "bin/sh f", "lib f", "gone d"} <= set(listed)
        assert len(listed) == len(set(listed))
        run("cp", "-a", target, copy)
        assert run("diff", "-r", target, copy) == ""
        archive = run("tar", "-cf", tmp_path / "all.tar", "-C", target, ".")
        assert archive == ""
        assert " link to " not in run("tar", "-tvf", tmp_path / "all.tar")
        run("sh", "-c", f"cd {target}/etc && echo new > made && mv made conf.d/ && cat hosts conf.d/made >> passwd")
        assert subprocess.run(["rm", "-rf", target / "etc"], capture_output=True, check=False).returncode
        assert sorted(os.listdir(target / "etc")) == ["extra", "hosts"]
        with pytest.raises(PermissionError):
            (target / "etc").rename(target / "else")
    assert sorted(os.listdir(world.folder / "etc")) == ["hosts"], "the hidden one was never touched"
    assert (world.folder / "etc/hosts").read_text() == "real etc/hosts"
