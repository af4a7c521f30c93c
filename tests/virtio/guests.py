"""Real guests for the devices: a kernel, an initramfs with busybox and the modules, and our back ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pykrun.kernel.cpio import archive, character_device, file, folder

UML_MODULES = (
    "fs/fuse/fuse.ko",
    "fs/fuse/virtiofs.ko",
    "drivers/char/virtio_console.ko",
    "drivers/block/virtio_blk.ko",
)
QEMU_MODULES = (
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "fs/fuse/fuse.ko",
    "fs/fuse/virtiofs.ko",
)
GRACE = 5.0


def busybox() -> bytes:
    """A static busybox."""
    path = shutil.which("busybox")
    if path is None:
        pytest.skip("no busybox on PATH (apt-get install busybox-static)")
    return Path(path).read_bytes()


def initramfs(modules: Path, names: Sequence[str], script: str) -> bytes:
    """An initramfs that loads modules and runs a busybox script, which must not return."""
    loads = "".join(f"insmod /{Path(name).name}\n" for name in names if (modules / "kernel" / name).exists())
    init = f"#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\n{loads}{script}\npoweroff -f\n"
    entries = [folder(name) for name in ("bin", "dev", "proc", "sys", "mnt")]
    entries += [character_device("dev/console", 5, 1), character_device("dev/null", 1, 3)]
    entries += [file("bin/busybox", busybox(), 0o755), file("init", init.encode(), 0o755)]
    for name in names:
        path = modules / "kernel" / name
        if path.exists():
            entries.append(file(path.name, path.read_bytes()))
    return b"".join(archive(entries))


def uml_modules() -> Path:
    """The modules that come with User Mode Linux."""
    found = sorted(Path("/usr/lib/uml/modules").glob("*"))
    if not found:
        pytest.skip("no modules of User Mode Linux")
    return found[-1]


@contextmanager
def uml(script: str, devices: dict[str, int], listeners: dict[str, socket.socket]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script in User Mode Linux; `devices` gives the virtio id of each socket in `listeners`."""
    with tempfile.TemporaryDirectory(prefix="pykrun-test-") as name:
        for device, listener in listeners.items():
            listener.bind(f"{name}/{device}")
            listener.listen(1)
        with uml_at({f"{name}/{device}": devices[device] for device in listeners}, script) as process:
            yield process


@contextmanager
def uml_at(sockets: dict[str, int], script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script in User Mode Linux, with a device of that virtio id behind each of the sockets."""
    with tempfile.TemporaryDirectory(prefix="pykrun-test-") as name:
        place = Path(name)
        (place / "empty").mkdir()
        (place / "initrd").write_bytes(initramfs(uml_modules(), UML_MODULES, script))
        command = ["setarch", "-R", "linux.uml", "mem=128M", f"initrd={place}/initrd", "con0=fd:0,fd:1", "con=null"]
        command += ["quiet", "noreboot", f"uml_dir={place}/", f"hostfs={place}/empty", "lsm=capability"]
        command += ["initcall_blacklist=raid6_select_algo,init_zswap", "pty.legacy_count=0"]
        command += [f"virtio_uml.device={path}:{number}" for path, number in sockets.items()]
        with _running(command, place) as process:
            yield process


@contextmanager
def qemu(
    script: str, kernel: Path, modules: Path, tag: str, listener: socket.socket
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script in QEMU's software emulation, with one virtio-fs device behind the socket."""
    with tempfile.TemporaryDirectory(prefix="pykrun-test-") as name:
        listener.bind(f"{name}/fs")
        listener.listen(1)
        with qemu_at(f"{name}/fs", script, kernel, modules, tag) as process:
            yield process


@contextmanager
def qemu_at(path: str, script: str, kernel: Path, modules: Path, tag: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same with a socket that somebody else made."""
    with tempfile.TemporaryDirectory(prefix="pykrun-test-") as name:
        place = Path(name)
        (place / "initrd").write_bytes(initramfs(modules, QEMU_MODULES, script))
        command = ["qemu-system-x86_64", "-M", "q35,memory-backend=mem", "-accel", "tcg,thread=multi", "-cpu", "max"]
        command += ["-m", "256", "-object", "memory-backend-memfd,id=mem,size=256M,share=on"]
        command += ["-kernel", str(kernel), "-initrd", f"{place}/initrd", "-nodefaults", "-no-reboot"]
        command += ["-no-user-config", "-display", "none", "-chardev", "stdio,id=out", "-serial", "chardev:out"]
        command += ["-append", "console=ttyS0 quiet panic=-1 nokaslr mitigations=off cryptomgr.notests no_timer_check"]
        command += ["-chardev", f"socket,id=c0,path={path}"]
        command += ["-device", f"vhost-user-fs-pci,chardev=c0,tag={tag},queue-size=1024"]
        with _running(command, place) as process:
            yield process


@contextmanager
def _running(command: list[str], place: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(place), "HOME": str(place)},
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(GRACE)
        assert process.stdout is not None
        process.stdout.close()
