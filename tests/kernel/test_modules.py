"""Modules folders: real modules of an installed kernel, laid out as packages and depmod lay them out."""

from __future__ import annotations

import gzip
import lzma
import shutil
from pathlib import Path

import pytest

from pykrun.errors import MissingError
from pykrun.kernel.find import UML_MODULES
from pykrun.kernel.modules import ModuleTree, module_name

pytestmark = pytest.mark.uml


@pytest.fixture
def source() -> Path:
    return next(UML_MODULES.iterdir())


def test_names() -> None:
    assert module_name("kernel/drivers/net/virtio-net.ko.xz") == "virtio_net"
    assert module_name("fuse.ko") == "fuse"


def test_dependencies_come_first(source: Path) -> None:
    order = [name for name, _ in ModuleTree(source).load_order(("virtiofs", "virtio_console", "virtio_net"))]
    assert order.index("fuse") < order.index("virtiofs")
    assert order.index("failover") < order.index("net_failover") < order.index("virtio_net")
    assert len(order) == len(set(order))
    assert "virtio_ring" not in order, "it is built in"


def test_folder_that_was_only_unpacked_does_as_well(source: Path, tmp_path: Path) -> None:
    """No modules.dep: that is depmod's."""
    shutil.copy(source / "modules.builtin", tmp_path)
    shutil.copy(source / "modules.order", tmp_path)
    (tmp_path / "kernel").symlink_to(source / "kernel")
    assert ModuleTree(tmp_path).load_order(("virtiofs",)) == ModuleTree(source).load_order(("virtiofs",))


def module(depends: str = "", *softdeps: str) -> bytes:
    """As much of a module as is looked at: its .modinfo section."""
    records = [f"depends={depends}", *(f"softdep={text}" for text in softdeps), "name=x"]
    return b"ELF\0" + "\0".join(records).encode() + b"\0"


def test_algorithms_that_are_asked_for_by_name_come_first(tmp_path: Path) -> None:
    """What modprobe finds by `softdep` and `alias` on a running system; in a guest nobody looks."""
    for name, data in {
        "btrfs": module("libcrc32c,zstd-compress", "pre: crypto-crc32c", "pre: sha256 nowhere", "post: late"),
        "libcrc32c": module("", "pre: crc32c"),
        **{name: module() for name in ("zstd_compress", "crc32c_generic", "sha256_generic", "late", "other")},
    }.items():
        (tmp_path / f"{name}.ko").write_bytes(data)
    order = [name for name, _ in ModuleTree(tmp_path).load_order(("btrfs",))]
    assert set(order) == {"btrfs", "libcrc32c", "zstd_compress", "crc32c_generic", "sha256_generic"}
    assert order.index("crc32c_generic") < order.index("libcrc32c") < order.index("btrfs") == len(order) - 1


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_compressed_modules(source: Path, tmp_path: Path, suffix: str, pack: object) -> None:
    folder = tmp_path / "kernel/fs"
    folder.mkdir(parents=True)
    for name in ("fuse", "virtiofs"):
        data = (source / f"kernel/fs/fuse/{name}.ko").read_bytes()
        (folder / f"{name}.ko{suffix}").write_bytes(pack(data))  # type: ignore[operator]
    shutil.copy(source / "modules.builtin", tmp_path)
    assert ModuleTree(tmp_path).load_order(("virtiofs",)) == ModuleTree(source).load_order(("virtiofs",))


def test_missing_module_is_named(source: Path) -> None:
    with pytest.raises(MissingError, match="no module nonsense"):
        ModuleTree(source).load_order(("nonsense",))


def test_damaged_module_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/virtiofs.ko.xz").write_bytes(b"no xz at all")
    with pytest.raises(MissingError, match=r"virtiofs\.ko\.xz"):
        ModuleTree(tmp_path).load_order(("virtiofs",))


def test_no_modules_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="holds no kernel modules"):
        ModuleTree(tmp_path)
