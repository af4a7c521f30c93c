"""Images that want out, or too much: each is refused with one clear error, or stays inside; the host never changes."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykrun.errors import ImageError, UsageError
from pykrun.image import Image, add_missing, open_image, resolve_user, tar
from pykrun.image.users import read_inside
from pykrun.root import Root
from tests.image import make
from tests.image.make import entry, file, folder, hard, layer, link
from tests.support.command import ROOT

Unpack = Callable[..., Image]


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, cache: Path) -> Iterator[Path]:
    """A folder beside the cache that nothing may touch, in the end as in the beginning; nor may anything be left."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("untouched\n")
    before = {path: path.lstat() for path in (folder, folder / "file")}
    beside = set(os.listdir(tmp_path))
    yield folder
    assert (folder / "file").read_text() == "untouched\n"
    assert os.listdir(folder) == ["file"]
    for path, status in before.items():
        now = path.lstat()
        assert (now.st_mode, now.st_uid, now.st_mtime_ns, now.st_nlink) == (
            status.st_mode, status.st_uid, status.st_mtime_ns, status.st_nlink
        )  # fmt: skip
    new = set(os.listdir(tmp_path)) - beside
    assert all(name.startswith("image") or name == "cache" for name in new), new
    assert not list((cache / "new").glob("*"))


def refused(unpack: Unpack, cache: Path, reason: str, *layers: bytes) -> None:
    with pytest.raises(ImageError, match=reason):
        unpack(*layers)
    assert not list((cache / "trees").glob("*"))


# -- ways out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "a/..", ".."])
def test_dots_in_a_name(unpack: Unpack, cache: Path, name: str) -> None:
    refused(unpack, cache, "leads out of it", layer(file(name, b"x")))


def test_an_absolute_name_is_inside(unpack: Unpack, outside: Path) -> None:
    tree = unpack(layer(file(f"{outside}/file", b"x"), folder("//etc"), file("///etc//./passwd", b"y"))).tree
    assert (tree / str(outside)[1:] / "file").read_bytes() == b"x"
    assert (tree / "etc/passwd").read_bytes() == b"y"


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../../../..{outside}"])
def test_a_link_as_a_parent_is_followed_inside(unpack: Unpack, outside: Path, target: str) -> None:
    members = (link("way", target.format(outside=outside)), file("way/file", b"x"), folder("way/new"))
    for layers in ([layer(*members)], [layer(members[0]), layer(*members[1:])]):
        tree = unpack(*layers).tree
        assert (tree / str(outside)[1:] / "file").read_bytes() == b"x"


def test_a_link_in_the_place_of_a_file_is_replaced(unpack: Unpack, outside: Path) -> None:
    tree = unpack(layer(link("f", f"{outside}/file"), file("f", b"x"))).tree
    assert not (tree / "f").is_symlink()


def test_a_link_in_the_place_of_a_directory_is_replaced(unpack: Unpack, outside: Path) -> None:
    tree = unpack(layer(link("d", str(outside)), folder("d", mode=0o777), file("d/file", b"x"))).tree
    assert not (tree / "d").is_symlink()
    assert (tree / "d/file").read_bytes() == b"x"


def test_a_hard_link_out(unpack: Unpack, cache: Path, outside: Path) -> None:
    refused(unpack, cache, "hard link to what is not there", layer(hard("f", f"{outside}/file")))
    refused(unpack, cache, "leads out of it", layer(hard("f", f"../../../../..{outside}/file")))
    refused(unpack, cache, "not there", layer(link("way", str(outside)), hard("f", "way/file")))


def test_a_hard_link_to_a_link_is_not_followed(unpack: Unpack, outside: Path) -> None:
    tree = unpack(layer(link("l", f"{outside}/file"), hard("f", "l"), file("f", b"x"))).tree
    assert (tree / "f").read_bytes() == b"x"


def test_a_hard_link_to_a_directory(unpack: Unpack, cache: Path) -> None:
    refused(unpack, cache, "hard link to a directory", layer(folder("d"), hard("e", "d")))
    refused(unpack, cache, "not there", layer(hard("e", "")))
    refused(unpack, cache, "not there", layer(folder("d"), file("d/f"), hard("d", "d/f")))


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh...", "d/.wh.."])
def test_a_whiteout_out(unpack: Unpack, cache: Path, name: str) -> None:
    refused(unpack, cache, "whiteout that leads out", layer(folder("d"), file("f")), layer(file(name)))


def test_a_whiteout_behind_a_link(unpack: Unpack, outside: Path) -> None:
    members = (file("way/.wh.file"), file("way/.wh..wh..opq"))
    assert os.listdir(unpack(layer(link("way", str(outside))), layer(*members)).tree) == ["way"]


def test_a_whiteout_of_a_link_leaves_its_target(unpack: Unpack, outside: Path) -> None:
    tree = unpack(
        layer(link("way", str(outside)), link("f", f"{outside}/file")), layer(file(".wh.way"), file(".wh.f"))
    ).tree
    assert os.listdir(tree) == []


def test_an_opaque_root(unpack: Unpack) -> None:
    tree = unpack(layer(file("a"), folder("d"), file("d/b")), layer(file(".wh..wh..opq"), file("new"))).tree
    assert os.listdir(tree) == ["new"]


def test_links_in_circles(unpack: Unpack, cache: Path) -> None:
    refused(unpack, cache, "in circles", layer(link("a", "b"), link("b", "a"), file("a/f")))
    refused(unpack, cache, "in circles", layer(link("a", "a/a"), file("a/f")))


def test_below_what_is_no_directory(unpack: Unpack, cache: Path) -> None:
    refused(unpack, cache, "below one that is no directory", layer(file("f"), file("f/g")))
    refused(unpack, cache, "below one that is no directory", layer(link("l", "f"), file("f"), file("l/g")))


@pytest.mark.root
def test_a_device_is_not_opened(unpack: Unpack) -> None:
    members = (
        entry("tty", tarfile.CHRTYPE, devmajor=5, devminor=0),
        file("tty", b"x"),
        entry("fifo", tarfile.FIFOTYPE),
        file("fifo", b"y"),
        entry("f", tarfile.CHRTYPE, devmajor=1, devminor=5, mode=0o4777),
        hard("g", "f"),
    )
    tree = unpack(layer(*members)).tree
    assert (tree / "tty").read_bytes() == b"x"
    assert (tree / "fifo").read_bytes() == b"y"
    assert tree.parent.parent.parent.stat().st_mode & 0o077 == 0, "nobody else may come that far"


@pytest.mark.parametrize(("major", "minor"), [(1 << 12, 0), (0, 1 << 20)])
def test_a_device_that_cannot_be(unpack: Unpack, cache: Path, major: int, minor: int) -> None:
    refused(unpack, cache, "no kernel has", layer(entry("d", tarfile.BLKTYPE, devmajor=major, devminor=minor)))


# -- too much ----------------------------------------------------------------------------------------------------


def test_long_names(unpack: Unpack, cache: Path) -> None:
    refused(unpack, cache, "File name too long", layer(file("x" * 256)))
    refused(unpack, cache, "name is too long", layer(file("x/" * 3000)))
    refused(unpack, cache, "lie too deep", layer(file("x/" * 300 + "f")))
    refused(unpack, cache, "File name too long", layer(link("l", "x" * 5000)))


def test_a_way_that_grows_by_links(unpack: Unpack, cache: Path) -> None:
    members = [folder("x/" * 200), link("l", "x/" * 200), file("l/" + "y/" * 200 + "f")]
    refused(unpack, cache, "lie too deep", layer(*members))


def test_a_size_beyond_the_end(unpack: Unpack, cache: Path) -> None:
    block = bytearray(layer(file("f", b"x"))[:512])
    for size in (b"77777777777\0", b"\x80" + b"\0" * 6 + b"\x0f" * 5):
        block[124:136] = size
        refused(unpack, cache, "it ends early", checked(block) + b"x" * 2000)
    block[124:136] = b"\xff" * 12
    refused(unpack, cache, "out of range", checked(block))


def checked(block: bytearray) -> bytes:
    """The header with the right checksum."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_header_without_end(unpack: Unpack, cache: Path) -> None:
    for kind in (b"x", b"g", b"L", b"K"):
        block = bytearray(layer(file("f", b"x"))[:512])
        block[156:157], block[124:136] = kind, b"77777777777\0"
        refused(unpack, cache, "header is too large", checked(block) + b"x" * 4096)


def test_long_headers_one_after_the_other(unpack: Unpack, cache: Path) -> None:
    block = bytearray(layer(file("f", b"x"))[:512])
    block[156:157], block[124:136] = b"L", b"%011o\0" % (1 << 18)
    refused(unpack, cache, "header is too large", (checked(block) + b"x" * (1 << 18)) * 6)


@pytest.mark.parametrize("record", [b"5 a=b", b"99999999 a=b\n", b"x a=b\n", b"6 ab\n", b"-1 a=\n", b" ", b"0 a=\n"])
def test_a_damaged_extended_header(unpack: Unpack, cache: Path, record: bytes) -> None:
    block = bytearray(layer(file("f", b"x"))[:512])
    block[156:157], block[124:136] = b"x", b"%011o\0" % len(record)
    refused(unpack, cache, "extended header is damaged", checked(block) + record.ljust(512, b"\0"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", "-1"), ("size", "9" * 30), ("uid", "x"), ("gid", "4294967295"), ("mtime", "nan"), ("mtime", "1e5")],
)
def test_extended_numbers_that_cannot_be(unpack: Unpack, cache: Path, key: str, value: str) -> None:
    refused(unpack, cache, "no number|out of range", layer(file("f", pax_headers={key: value})))


def test_a_nul_in_a_name(unpack: Unpack, cache: Path) -> None:
    refused(unpack, cache, "has a NUL", layer(file("f", pax_headers={"path": "a\0b"})))


@pytest.mark.parametrize("headers", [{"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 60)}, {}])
def test_sparse_files(unpack: Unpack, cache: Path, headers: dict[str, str]) -> None:
    data = layer(file("f", b"1\n0\n1\n", pax_headers=headers))
    if not headers:
        block = bytearray(data[:512])
        block[156:157], block[483:495] = b"S", b"77777777777\0"
        data = checked(block) + data[512:]
    refused(unpack, cache, "sparse files", data)


def test_a_wrong_checksum(unpack: Unpack, cache: Path) -> None:
    refused(unpack, cache, "checksum is wrong", b"x" + layer(file("f"))[1:])


def test_an_unknown_kind(unpack: Unpack, cache: Path) -> None:
    refused(unpack, cache, "unknown kind", layer(entry("v", b"V")))


def test_no_tar_at_all(unpack: Unpack, cache: Path) -> None:
    refused(unpack, cache, "checksum is no number|checksum is wrong|ends early", b"hello" * 1000)
    refused(unpack, cache, "ends early", layer(file("f", b"x" * 5000))[:3000])


@pytest.mark.parametrize("cut", [20, 9, 1])
def test_a_truncated_gzip(tmp_path: Path, cut: int) -> None:
    layout = make.Layout(tmp_path / "image")
    plain = layer(file("f", os.urandom(100_000)))
    packed = layout.blob(make.compress(plain, "gzip")[:-cut], make.LAYER + "+gzip")
    config = layout.blob(make.configuration([plain]), make.CONFIG)
    layout.add(layout.document({"mediaType": make.MANIFEST, "config": config, "layers": [packed]}, make.MANIFEST))
    with pytest.raises(ImageError, match="ends early"):
        open_image(str(layout.path), arch="x86_64")


def test_a_bomb_fills_no_memory(tmp_path: Path) -> None:
    """256 MiB of zeros in one, beside which the process grows by next to nothing; it is cut off by the disk
    in earnest, and here by a limit on the size of files."""
    script = """
import resource, signal, sys
from pykrun.errors import ImageError
from pykrun.image import open_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_image(sys.argv[1], arch="x86_64")
except ImageError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10)
"""
    plain = layer(file("zeros", bytes(256 << 20)))
    path = make.image(tmp_path / "image", plain)
    del plain
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "cannot unpack 'zeros': File too large" in done.stdout, done
    assert done.stdout.endswith("True\n"), done


def test_more_links_than_anybody_follows_lead_nowhere(unpack: Unpack, outside: Path) -> None:
    """The users, groups and hosts of the image are read on the host: they must be the image's."""
    (outside / "file").chmod(0o644)
    chain = [link("etc", "l0"), *(link(f"l{index}", f"l{index + 1}") for index in range(60)), link("l60", str(outside))]
    image = unpack(layer(*chain))
    for name in (b"/etc/file", b"/l30/file", b"/l60/file"):
        assert read_inside(image.tree, name) == []
    root = Root(below=str(image.tree))
    add_missing(root, image.tree, "/etc/work")
    with pytest.raises(UsageError, match="no user"):
        resolve_user(image.tree, "nobody")


def test_an_attribute_whose_name_has_a_nul(unpack: Unpack, cache: Path) -> None:
    record = b"SCHILY.xattr.user.a\0b=1\n"
    data = b"%d %s" % (len(record) + 3, record)
    refused(unpack, cache, "name has a NUL", layer(entry("x", b"x", data, size=len(data)), file("f", b"")))


def test_headers_for_all_entries_are_kept_as_far_as_they_mean_something() -> None:
    """Each may be a megabyte, and of an image there may be millions."""
    key = b"comment%d="
    members = []
    for index in range(50):
        record = key % index + b"x" * 500_000 + b"\n"
        data = b"%d %s" % (len(record) + 7, record)
        members += [entry("g", b"g", data, size=len(data)), file(f"f{index}", b"")]
    data = layer(*members)
    tracemalloc.start()
    try:
        names = [one.name for one in tar.entries(tar.Stream(data[at : at + 4096] for at in range(0, len(data), 4096)))]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(names) == 50
    assert peak < 8 << 20


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_archive_whose_header_says_gigabytes(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "image0.tar"
    head = bytearray(tarfile.TarInfo("name").tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"%011o\0" % (8 << 30 >> 1)
    head[156:157] = kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    with open(path, "wb") as stream:
        stream.write(head)
        stream.truncate(5 << 30)  # a hole
    with pytest.raises(ImageError, match="header"):
        open_image(f"docker-archive:{path}", arch="x86_64")
