"""Stage one's archive: what is in it, and that it is made once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import pykrun.engine as engines
from pykrun.errors import MissingError
from pykrun.kernel import NETWORK, for_image, initramfs
from pykrun.machine import Kernel
from pykrun.record import replace

pytestmark = pytest.mark.uml


@pytest.fixture
def kernel() -> Kernel:
    return engines.choose("uml").kernel()


@pytest.fixture
def blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "blob"
    path.write_bytes(b"\x7fELF the blob")
    return path


def names(archive: Path) -> list[str]:
    return [name.decode() for name in re.findall(rb"stage1/[^\0]+", archive.read_bytes())]


def test_holds_init_and_the_modules_in_order(kernel: Kernel, blob: Path) -> None:
    archive = initramfs(kernel, blob)
    assert archive is not None
    content = archive.read_bytes()
    assert blob.read_bytes() in content
    assert b"dev/console\0" in content
    assert b"mnt\0" in content
    found = names(archive)
    assert [name.split("-", 1)[0] for name in found] == [f"stage1/{index:02}" for index in range(len(found))]
    assert found.index("stage1/00-fuse.ko") < found.index("stage1/01-virtiofs.ko")
    assert archive.stat().st_mode & 0o777 == 0o644, "an engine without rights has to read it"


def test_a_machine_with_a_network_has_more(kernel: Kernel, blob: Path) -> None:
    archive = initramfs(kernel, blob, NETWORK)
    assert archive is not None
    assert archive != initramfs(kernel, blob)
    found = [name.split("-", 1)[1] for name in names(archive)]
    order = [found.index(name + ".ko") for name in ("failover", "net_failover", "virtio_net", "ipv6")]
    assert order == sorted(order)


def test_a_kernel_without_ipv6_has_a_network_too(kernel: Kernel, blob: Path, tmp_path: Path) -> None:
    assert kernel.modules is not None
    folder = tmp_path / "modules"
    shutil.copytree(kernel.modules, folder, symlinks=True)
    for name in ("modules.dep", "modules.order"):
        kept = [line for line in (folder / name).read_text().splitlines() if "/ipv6.ko" not in line.split(":")[0]]
        (folder / name).write_text("\n".join(kept))
    archive = initramfs(replace(kernel, modules=folder), blob, NETWORK)
    assert archive is not None
    assert [name for name in names(archive) if name.endswith("ipv6.ko")] == []
    assert [name for name in names(archive) if name.endswith("virtio_net.ko")]


def test_made_once_and_the_same_each_time(kernel: Kernel, blob: Path, tmp_path: Path) -> None:
    first = initramfs(kernel, blob)
    assert first is not None
    written = first.stat().st_mtime_ns
    assert initramfs(kernel, blob) == first
    assert first.stat().st_mtime_ns == written
    content = first.read_bytes()
    shutil.rmtree(tmp_path / "cache")
    again = initramfs(kernel, blob)
    assert again is not None
    assert again.read_bytes() == content


def test_another_blob_gives_another_archive(kernel: Kernel, blob: Path) -> None:
    first = initramfs(kernel, blob)
    blob.write_bytes(b"\x7fELF another blob")
    second = initramfs(kernel, blob)
    assert first is not None
    assert second is not None
    assert first != second
    assert b"another blob" in second.read_bytes()


def test_more_modules_on_request(kernel: Kernel, blob: Path) -> None:
    archive = initramfs(kernel, blob, ("virtio_blk",))
    assert archive is not None
    assert any(name.endswith("virtio_blk.ko") for name in names(archive))
    assert archive != initramfs(kernel, blob)


def test_file_systems_on_request(kernel: Kernel, blob: Path) -> None:
    """What is a module of this kernel is loaded, with what it asks for by name; what is built in needs nothing."""
    archive = initramfs(kernel, blob, file_systems=("vfat",))
    assert archive is not None
    found = [name.split("-", 1)[1] for name in names(archive)]
    assert {"vfat.ko", "fat.ko", "nls_cp437.ko", "nls_ascii.ko"} <= set(found)
    assert found.index("fat.ko") < found.index("vfat.ko")
    plain, builtin = initramfs(kernel, blob), initramfs(kernel, blob, file_systems=("ext4",))
    assert plain is not None
    assert builtin is not None
    assert names(builtin) == names(plain)


def test_one_of_several_file_systems_is_enough(kernel: Kernel, blob: Path) -> None:
    assert initramfs(kernel, blob, file_systems=("ext4", "nonsense")) is not None
    with pytest.raises(MissingError, match="this kernel has no file system nonsense or other"):
        initramfs(kernel, blob, file_systems=("nonsense", "other"))


def test_kernel_with_everything_built_in_needs_none(kernel: Kernel, blob: Path, tmp_path: Path) -> None:
    assert initramfs(Kernel(image=kernel.image, modules=None, release=kernel.release), blob) is None
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "modules.builtin").write_text("kernel/fs/fuse/virtiofs.ko\nkernel/drivers/char/virtio_console.ko\n")
    builtin = Kernel(image=kernel.image, modules=folder, release=kernel.release)
    assert initramfs(builtin, blob) is None
    assert initramfs(builtin, blob) is None, "from the cache"


def test_old_archives_go(kernel: Kernel, blob: Path, tmp_path: Path) -> None:
    for number in range(12):
        blob.write_bytes(b"\x7fELF %d" % number)
        assert initramfs(kernel, blob) is not None
    assert len(list((tmp_path / "cache/pykrun/initramfs").iterdir())) == 8


def test_missing_blob_is_an_error(kernel: Kernel, blob: Path) -> None:
    with pytest.raises(MissingError):
        initramfs(kernel, blob.with_name("none"))


def test_kernel_by_its_path_is_the_engines_own(kernel: Kernel) -> None:
    assert for_image(kernel.image) == kernel
