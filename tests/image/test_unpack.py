"""What layers become: attributes, links, whiteouts, and one thing in the place of another."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun.image import Image
from tests.image.make import entry, file, folder, hard, layer, link

Unpack = Callable[..., Image]
THEN = 1_234_567_890
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service=ep (uapi/linux/capability.h, struct vfs_cap_data)."""


def names(tree: Path) -> list[str]:
    """All below the root, sorted."""
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))


@pytest.mark.root
def test_attributes(unpack: Unpack) -> None:
    tree = unpack(
        layer(
            folder("./", mode=0o711, uid=9, gid=8, mtime=THEN),
            folder("closed", mode=0o500, uid=1, gid=2, mtime=THEN),
            file("closed/suid", b"x" * 100_000, mode=0o4755, uid=3, gid=4, mtime=THEN + 0.25),
            file("closed/capable", b"x", xattrs={"security.capability": CAPABILITY.decode("latin-1")}, mode=0o755),
            link("closed/link", "/elsewhere", uid=5, gid=6, mtime=THEN),
            hard("closed/again", "closed/suid"),
            entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            entry("disk", tarfile.BLKTYPE, devmajor=254, devminor=1, uid=7),
            entry("fifo", tarfile.FIFOTYPE, mode=0o640, mtime=THEN),
            file("ancient", mtime=-1),
        )
    ).tree
    top = tree.stat()
    assert (stat.S_IMODE(top.st_mode), top.st_uid, top.st_gid, top.st_mtime) == (0o711, 9, 8, THEN)
    closed = (tree / "closed").stat()
    assert (stat.S_IMODE(closed.st_mode), closed.st_uid, closed.st_gid, closed.st_mtime) == (0o500, 1, 2, THEN)
    suid = (tree / "closed/suid").stat()
    assert (stat.S_IMODE(suid.st_mode), suid.st_uid, suid.st_gid, suid.st_nlink) == (0o4755, 3, 4, 2)
    assert suid.st_mtime_ns == THEN * 10**9 + 250_000_000
    assert (tree / "closed/suid").read_bytes() == b"x" * 100_000
    assert (tree / "closed/again").stat().st_ino == suid.st_ino
    assert os.getxattr(tree / "closed/capable", "security.capability")[:4] == CAPABILITY[:4]
    symbolic = (tree / "closed/link").lstat()
    assert (symbolic.st_uid, symbolic.st_gid, symbolic.st_mtime) == (5, 6, THEN)
    assert os.readlink(tree / "closed/link") == "/elsewhere"
    null, disk = (tree / "null").lstat(), (tree / "disk").lstat()
    assert (null.st_mode, null.st_rdev) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (stat.S_IFMT(disk.st_mode), disk.st_rdev, disk.st_uid) == (stat.S_IFBLK, os.makedev(254, 1), 7)
    assert (tree / "fifo").lstat().st_mode == stat.S_IFIFO | 0o640
    assert (tree / "ancient").stat().st_mtime == -1


def test_extended_attributes(unpack: Unpack) -> None:
    marks = {"user.overlay.opaque": "y", "trusted.overlay.opaque": "y", "security.selinux": "no", "user.note": "yes"}
    tree = unpack(layer(file("f", xattrs=marks), folder("d", xattrs=marks)), layer(folder("d", xattrs={}))).tree
    assert [name for name in os.listxattr(tree / "f") if name != "security.selinux"] == ["user.note"]
    assert os.getxattr(tree / "f", "user.note") == b"yes"
    assert "user.note" not in os.listxattr(tree / "d")


def test_names_of_every_length(unpack: Unpack) -> None:
    long = "/".join(("d" * 100, "e" * 255, "f" * 200))
    tree = unpack(layer(file(long, b"far"), link("short", long), file("ü\udcff", b"odd"))).tree
    assert (tree / long).read_bytes() == b"far"
    assert (tree / "short").read_bytes() == b"far"
    assert (tree / "ü\udcff").read_bytes() == b"odd"


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_formats_of_tar(unpack: Unpack, kind: int) -> None:
    import io

    stream = io.BytesIO()
    long = "a/" * 60 + "name"
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        info = tarfile.TarInfo(long)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "x" * (150 if kind != tarfile.USTAR_FORMAT else 90)
        tar.addfile(info)
        info = tarfile.TarInfo("owner")
        info.uid = 0o7777777 if kind == tarfile.USTAR_FORMAT else 3_000_000_000
        tar.addfile(info)
    tree = unpack(stream.getvalue()).tree
    assert (tree / long).read_bytes() == b"abc"
    assert len(os.readlink(tree / "link")) >= 90
    if os.geteuid() == 0:
        assert (tree / "owner").stat().st_uid == (0o7777777 if kind == tarfile.USTAR_FORMAT else 3_000_000_000)


def test_whiteouts_take_away_what_lies_below(unpack: Unpack) -> None:
    below = layer(file("a"), folder("d"), file("d/one"), folder("d/sub"), file("d/sub/two"), file("keep"))
    image = unpack(below, layer(file(".wh.a"), file("d/.wh.sub"), file(".wh.nothing"), file("missing/.wh.x")))
    assert names(image.tree) == ["d", "d/one", "keep"]


def test_opaque_directories(unpack: Unpack) -> None:
    below = layer(folder("d", mode=0o700), file("d/old"), folder("d/deep"), file("d/deep/old"), file("e"))
    for order in (0, 1):
        members = [file("d/new"), file("d/deep/new"), file("d/.wh..wh..opq"), folder("d", mode=0o750)]
        if order:
            members.reverse()
        tree = unpack(below, layer(*members)).tree
        assert names(tree) == ["d", "d/deep", "d/deep/new", "d/new", "e"]
        assert stat.S_IMODE((tree / "d").stat().st_mode) == 0o750


def test_a_whiteout_leaves_what_its_own_layer_brings(unpack: Unpack) -> None:
    below = layer(folder("d"), file("d/old"), file("f", b"old"))
    above = layer(folder("d"), file("d/new"), file(".wh.d"), file("f", b"new"), file(".wh.f"))
    tree = unpack(below, above).tree
    assert names(tree) == ["d", "d/new", "f"]
    assert (tree / "f").read_bytes() == b"new"


def test_marks_of_aufs_mean_nothing(unpack: Unpack) -> None:
    assert names(unpack(layer(folder(".wh..wh.plnk"), file(".wh..wh.aufs"), file("f"))).tree) == ["f"]


def test_one_thing_replaces_another(unpack: Unpack) -> None:
    below = layer(folder("d"), file("d/in"), file("f", b"f"), link("l", "f"), link("m", "d"), file("same", b"1"))
    above = layer(
        file("d", b"was a directory"),
        folder("f"),
        file("f/in"),
        file("l", b"was a link"),
        folder("m"),
        file("m/in"),
        file("same", b"2"),
        file("same", b"3"),
    )
    tree = unpack(below, above).tree
    assert names(tree) == ["d", "f", "f/in", "l", "m", "m/in", "same"]
    assert (tree / "d").read_bytes() == b"was a directory"
    assert (tree / "l").read_bytes() == b"was a link"
    assert not (tree / "m").is_symlink()
    assert (tree / "same").read_bytes() == b"3"


def test_entries_through_a_linked_directory(unpack: Unpack) -> None:
    """Such as /lib of a distribution whose packages still say /lib: the link stays and leads inside."""
    below = layer(folder("usr/lib"), link("lib", "usr/lib"), link("var", "/usr"), link("up", "../../../usr"))
    above = layer(file("lib/a"), file("var/b"), file("up/c"), hard("lib/d", "var/lib/a"), file("var/lib/.wh.nothing"))
    tree = unpack(below, above).tree
    assert names(tree) == ["lib", "up", "usr", "usr/b", "usr/c", "usr/lib", "usr/lib/a", "usr/lib/d", "var"]
    assert (tree / "lib").is_symlink()


def test_a_link_to_what_is_not_there_yet(unpack: Unpack) -> None:
    tree = unpack(layer(link("run", "var/run"), file("run/pid", b"1"))).tree
    assert (tree / "var/run/pid").read_bytes() == b"1"


def test_a_hard_link_to_a_lower_layers_file(unpack: Unpack) -> None:
    tree = unpack(layer(file("a", b"x")), layer(hard("b", "a"), hard("b", "b"), hard("c", "/./a"))).tree
    assert (tree / "a").stat().st_nlink == 3
    assert (tree / "b").read_bytes() == b"x"


def test_a_hard_link_to_a_symbolic_link(unpack: Unpack) -> None:
    tree = unpack(layer(link("a", "/etc/passwd"), hard("b", "a"))).tree
    assert os.readlink(tree / "b") == "/etc/passwd"


def test_no_layers(unpack: Unpack) -> None:
    assert names(unpack().tree) == []
    assert names(unpack(layer()).tree) == []


def test_many_small_files_and_a_long_way(unpack: Unpack) -> None:
    members = [file(f"d{number % 300}/f{number}", b"%d" % number) for number in range(2000)]
    tree = unpack(layer(*members)).tree
    assert (tree / "d7/f1507").read_bytes() == b"1507"
    assert len(names(tree)) == 2300
